"""A plan that trains in seconds."""

TINY = """
# A tiny plan.
name = "tiny"
seeds = [0]
set = [
    "stages.teacher.student={model='cnn3', options={width=4}}",
    "stages.teacher.train.epochs=1",
    "stages.student.student={model='cnn3', options={width=4}}",
    "stages.student.train.epochs=1",
    "data.train_size=100",
    "data.validation=40",
]
[methods]
ce = "digits/ce"
kd = "digits/kd"
""".lstrip()
