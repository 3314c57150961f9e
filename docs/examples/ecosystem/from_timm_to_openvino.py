import onnxruntime
import openvino
import timm
import torch
from timm.optim import create_optimizer_v2
from transformers import AutoModelForImageClassification

import bilevel.timm
from bilevel.export import export

torch.manual_seed(0)  # of random images, one in many has regions whose scores rounding decides
model = timm.create_model("biformer_tiny", num_classes=10)
optimizer = create_optimizer_v2(model, "adamw", lr=1e-4, layer_decay=0.8)
for _ in range(2):
    logits = model(torch.randn(2, 3, 224, 224))
    torch.nn.functional.cross_entropy(logits, torch.tensor([3, 7])).backward()
    optimizer.step()
bilevel.timm.save(model.eval(), "tuned")
loaded = timm.create_model("local-dir:tuned", pretrained=True).eval()
wrapped = AutoModelForImageClassification.from_pretrained("tuned").eval()
export(model, "tuned.onnx", "onnx")
export(model, "tuned.xml", "openvino")
ort = onnxruntime.InferenceSession("tuned.onnx")
ov = openvino.Core().compile_model("tuned.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
for x in torch.randn(1, 3, 224, 224), torch.randn(2, 3, 256, 320), torch.randn(1, 3, 288, 235):
    for y in loaded(x), wrapped(x).logits, *ort.run(None, {"images": x.numpy()}), ov(x.numpy())[0]:
        assert (torch.as_tensor(y) - model(x)).abs().max() < 1e-4
