"""transformers' head of UperNet computes the same on a backbone's maps, with the same weights."""

import torch
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetHead

from bilevel import heads


def weights(head):
    """In the order that both have, the classifier last."""
    return sorted(head.state_dict().items(), key=lambda item: item[0].startswith("classifier"))


model = heads.upernet(heads.backbone("biformer_tiny", "upernet"), 5, channels=64).eval()
config = UperNetConfig(num_labels=5, hidden_size=64)
theirs = UperNetHead(config, model.backbone.out_channels).eval()
pairs = zip(weights(theirs), weights(model.head), strict=True)
theirs.load_state_dict({name: value for (name, _), (_, value) in pairs})
maps = model.backbone(torch.randn(1, 3, 96, 64))
torch.testing.assert_close(model.head(maps), theirs(maps))
