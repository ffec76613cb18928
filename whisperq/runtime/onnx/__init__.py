"""Exported graphs run by ONNX Runtime or by OpenVINO."""
