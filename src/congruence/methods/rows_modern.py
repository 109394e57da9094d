"""The rows of newer methods of tokens, queues and sentences; those of logits and maps are in `rows_recent.py`."""

from __future__ import annotations

from congruence import losses
from congruence.methods.method import Needs
from congruence.methods.minilm import MiniLM
from congruence.methods.queue_relation import QueueRelation
from congruence.methods.radio import Agglomerative
from congruence.methods.rows import Row
from congruence.methods.similarity import SimilarityDistillation
from congruence.methods.vitkd import ViTKD

# Means over real tokens, of which ranks may hold different numbers.
_TOKENS = Needs(roles=("tokens",), scope="labelled")

MODERN: tuple[Row, ...] = (
    Row(
        key="gram",
        summary="The cosines between the patches of an image, or the words of a text.",
        reference="from the definition; patch Gram matrices as in the anchoring of DINOv3, 2025",
        year=2025,
        link="https://arxiv.org/abs/2508.10104",
        part=losses.GramLoss,
        function=losses.gram_loss,
        needs=_TOKENS,
    ),
    Row(
        key="minilm",
        summary="The relations within the queries, the keys and the values of one attention layer.",
        reference="Wang et al., MiniLMv2, Findings of ACL 2021",
        year=2021,
        link="https://arxiv.org/abs/2012.15828",
        part=MiniLM,
        function=losses.attention_relation_loss,
        needs=MiniLM.needs,
    ),
    Row(
        key="patch_relation",
        summary="Similarities between the patches of an image (or words of a text), as distributions.",
        reference="from the definition, after the public documentation of LightlyTrain",
        part=losses.PatchRelationLoss,
        function=losses.patch_relation_loss,
        needs=_TOKENS,
    ),
    Row(
        key="queue_relation",
        summary="Each sample's similarities to a queue of the teacher's earlier embeddings, as a distribution.",
        reference="from the definition, after the public documentation of LightlyTrain",
        part=QueueRelation,
        function=losses.queue_relation_loss,
        needs=QueueRelation.needs,
    ),
    Row(
        key="radio",
        summary="An image's summary and its tokens, through separate heads for each teacher.",
        reference="Ranzinger et al., AM-RADIO, CVPR 2024, and PHI-S, 2024",
        year=2024,
        link="https://arxiv.org/abs/2312.06709",
        part=Agglomerative,
        function=losses.agglomerative_loss,
        needs=Agglomerative.needs,
        weight={"summary": 1.0, "tokens": 1.0},
    ),
    Row(
        key="score_distill",
        summary="The sharpened cosines of a batch, as a retriever scores its documents.",
        reference="from the definition, after NVIDIA NeMo Automodel",
        part=losses.ScoreDistillationLoss,
        function=losses.score_distillation_loss,
    ),
    Row(
        key="similarity",
        summary="Embeddings, their similarities and the order of the similarities, optionally at several widths.",
        reference="Zhang et al., Jasper and Stella, arXiv 2412.19048",
        year=2024,
        link="https://arxiv.org/abs/2412.19048",
        part=SimilarityDistillation,
        function=losses.relative_similarity_loss,
        needs=SimilarityDistillation.needs,
        weight={"cosine": 10.0, "similarity": 200.0, "relative": 20.0},
    ),
    Row(
        key="vitkd",
        summary="A vision transformer: tokens of the first layers copied, those of the last generated after masking.",
        reference="Yang et al., ViTKD, arXiv 2209.02432",
        year=2022,
        link="https://arxiv.org/abs/2209.02432",
        part=ViTKD,
        function=losses.token_mimic_loss,
        needs=ViTKD.needs,
        weight={"mimic": 3e-5, "generation": 3e-6},
    ),
)
