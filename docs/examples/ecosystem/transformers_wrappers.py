"""transformers' TimmBackbone and TimmWrapper compute what timm does, also once saved and loaded."""

import timm
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    TimmBackbone,
    TimmBackboneConfig,
)

import bilevel.timm

torch.manual_seed(0)
x = torch.randn(2, 3, 96, 64)

backbone = TimmBackbone(TimmBackboneConfig(backbone="biformer_tiny", out_indices=[1, 3])).eval()
assert backbone.channels == [128, 512]
maps = backbone(x).feature_maps
assert [each.shape for each in maps] == [(2, 128, 12, 8), (2, 512, 3, 2)]
features = timm.create_model("biformer_tiny", features_only=True, out_indices=(1, 3)).eval()
features.load_state_dict(backbone._backbone.state_dict())
for ours, theirs in zip(features(x), maps, strict=True):
    torch.testing.assert_close(ours, theirs)
sum(each.sum() for each in backbone.train()(x).feature_maps).backward()

model = timm.create_model("biformer_micro", num_classes=3).eval()
bilevel.timm.save(model, "repository", labels=["a", "b", "c"])
wrapped = AutoModelForImageClassification.from_pretrained("repository").eval()
assert wrapped.config.id2label == {0: "a", 1: "b", 2: "c"}
torch.testing.assert_close(wrapped(x).logits, model(x))
assert wrapped(x, labels=torch.tensor([0, 2])).loss.ndim == 0
wrapped.save_pretrained("wrapped")
again = AutoModelForImageClassification.from_pretrained("wrapped").eval()
torch.testing.assert_close(again(x).logits, model(x))
body = AutoModel.from_pretrained("repository").eval()
torch.testing.assert_close(body(x).last_hidden_state, model.forward_features(x))
