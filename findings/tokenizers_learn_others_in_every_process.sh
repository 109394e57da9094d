#!/usr/bin/env bash
# tokenizers 0.23.3, trainers.WordPieceTrainer, and BpeTrainer with continuing_subword_prefix="##".
#
# Behaviour: trained on the same texts in the same order, each process gets another vocabulary: other tokens, not only
# other numbers. BpeTrainer without a prefix gives the same one in every process. No argument takes a seed.
# Seen: five processes, 3,000 made words, 1,000 tokens: five vocabularies with a prefix and of WordPiece, one without a prefix.
# Whom it hurts: who learns a tokenizer inside a seeded run: the model's table belongs to other tokens in each run, and a
# repeated run has other numbers. This library's `learn_tokenizer` marks no continuation, so that runs repeat.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
cat > "$folder/learn.py" <<'PYTHON'
import hashlib
import random
import string
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

prefix = {"continuing_subword_prefix": "##"} if sys.argv[1] == "prefix" else {}
draw = random.Random(0)
words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(3000)]
wordpiece = sys.argv[1] == "wordpiece"
model = models.WordPiece(unk_token="[UNK]") if wordpiece else models.BPE(unk_token="[UNK]", **prefix)
trainer = trainers.WordPieceTrainer if wordpiece else trainers.BpeTrainer
tokenizer = Tokenizer(model)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train_from_iterator(words, trainer(vocab_size=1000, show_progress=False, **prefix))
print(hashlib.sha256(" ".join(sorted(tokenizer.get_vocab())).encode()).hexdigest()[:12])
PYTHON
different() { for _ in 1 2 3 4 5; do "$folder/venv/bin/python" "$folder/learn.py" "$1"; done | sort -u | wc -l; }
prefix=$(different prefix) wordpiece=$(different wordpiece) plain=$(different plain)
echo "vocabularies of five processes: $prefix with a prefix, $wordpiece of WordPiece, $plain without a prefix"
[ "$prefix" -gt 1 ] || { echo "a prefix gives one vocabulary: the behaviour has changed" >&2; exit 1; }
[ "$wordpiece" -gt 1 ] || { echo "WordPiece gives one vocabulary: the behaviour has changed" >&2; exit 1; }
[ "$plain" -eq 1 ] || { echo "without a prefix there are several, too: the behaviour has changed" >&2; exit 1; }
