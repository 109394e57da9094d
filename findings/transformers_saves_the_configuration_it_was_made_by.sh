#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0, save_pretrained and from_pretrained of a model whose layers were taken out.
#
# Behaviour: save_pretrained writes the configuration that the model was made by, not what it is. A model of which
# every second layer was kept is saved without a word; from_pretrained makes all layers again, and draws those at random
# that the file lacks. It says so in its log and raises nothing.
# Seen: BertForSequenceClassification of 4 layers, 2 of them kept: the folder's config.json says 4, the model that comes
# back has 4, and gives other numbers each time that it is loaded.
# Whom it hurts: who makes a student of every second layer of its teacher, the usual first try with texts, and ships the
# folder. `export` and `save_native` of this library refuse such a model until its configuration says what it is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
import warnings
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

warnings.simplefilter("error")  # a warning would end this; the library's log is another thing
torch.manual_seed(0)
sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 20}
student = BertForSequenceClassification(BertConfig(num_hidden_layers=4, num_labels=3, initializer_range=0.3, **sizes))
student.bert.encoder.layer = student.bert.encoder.layer[::2]
student.eval().save_pretrained("student")

texts = {"input_ids": torch.tensor([[2, 8, 5, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
loaded = [BertForSequenceClassification.from_pretrained("student").eval() for _ in range(2)]
written = json.loads(Path("student/config.json").read_text(encoding="utf8"))["num_hidden_layers"]
layers = [len(model.bert.encoder.layer) for model in (student, *loaded)]
with torch.no_grad():
    ours, first, second = (model(**texts).logits for model in (student, *loaded))
apart = [(ours - first).abs().max().item(), (first - second).abs().max().item()]
print(f"layers: {layers[0]} saved, {written} in config.json, {layers[1]} loaded")
print(f"logits: {apart[0]:.2f} from what was saved, {apart[1]:.2f} between two loads")
assert (layers, written) == ([2, 4, 4], 4)
assert min(apart) > 0.01
PYTHON
