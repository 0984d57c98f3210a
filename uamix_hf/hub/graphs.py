"""Graphs of an encoder with its front end, for other runtimes: ONNX, also in int8, and torch.export."""

import inspect
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from tqdm.auto import tqdm

from ..embedding.embedder import AudioEmbedder
from ..version import __version__
from .log_mel_graph import NotExportableError
from .waveform_encoder import WaveformEncoder

METADATA_FILE = "metadata.json"  # in a file of torch.export
MISSING = "{} is not installed, which ONNX needs: pip install 'uamix_hf[onnx]'."


def trace(encoder: WaveformEncoder) -> tuple[ExportedProgram, tuple[dict[int, Dim], ...]]:
    """The graph of an encoder for any number of clips, of any length up to its window.

    Args:
        encoder: The encoder, on a CPU.

    Returns:
        The graph, and the axes of each of its inputs whose size is free.
    """
    batch, samples = Dim("batch"), Dim("samples", min=encoder.min_samples, max=encoder.window_samples)
    length = encoder.window_samples // 2
    inputs: tuple[torch.Tensor, ...] = (torch.zeros(2, length),)
    sizes: tuple[dict[int, Dim], ...] = ({0: batch, 1: samples},)
    if not encoder.equal_lengths:
        inputs, sizes = (*inputs, torch.tensor([length, length // 2])), (*sizes, {0: batch})
    # What always holds, but is beyond the tracer's algebra, such as that whole patches are a multiple of a patch, is
    # checked when the graph runs. Before torch 2.9 that is no option, but so.
    deferred = {"prefer_deferred_runtime_asserts_over_guards": True}
    known = inspect.signature(torch.export.export).parameters.keys() >= deferred.keys()
    options: dict[str, Any] = deferred if known else {}
    with torch.no_grad():
        return torch.export.export(encoder, inputs, dynamic_shapes=sizes, strict=False, **options), sizes


def graph_metadata(encoder: WaveformEncoder, embedder: AudioEmbedder) -> dict[str, str]:
    """What a caller of the graph must know, as text: sampling rate in Hz, samples and s of the longest clip, sizes."""
    adapter, extractor = embedder.adapter, embedder.feature_extractor
    whitening = adapter.read_settings(adapter.base).whitening
    entries = {
        "sampling_rate": extractor.sampling_rate,
        "min_samples": encoder.min_samples,
        "max_samples": encoder.window_samples,
        "max_seconds": encoder.window_samples / extractor.sampling_rate,
        "equal_lengths": encoder.equal_lengths,
        "embedding_size": adapter.embedding_size,
        "whitening_size": 0 if whitening is None else whitening[1].shape[1],
        "pooling": adapter.pooling,
        "model_type": adapter.base.config.model_type,
        "uamix_hf": __version__,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}


def load(source: str | os.PathLike) -> tuple[WaveformEncoder, dict[str, str]]:
    """The encoder of a folder or Hub repository in float32 on a CPU, as a module, and the metadata of its graph."""
    embedder = AudioEmbedder.from_pretrained(os.fspath(source), device="cpu", dtype=torch.float32)
    encoder = WaveformEncoder(embedder).eval()
    if encoder.equal_lengths and encoder.encoder.config._attn_implementation == "sdpa":
        # The exporter cannot take SDPA apart where the number of tokens is a formula of the samples (conformer).
        encoder.encoder.set_attn_implementation("eager")
    return encoder, graph_metadata(encoder, embedder)


def export_program(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Writes the graph from waveforms to embeddings as a file of `torch.export`.

    `torch.export.load(target).module()` takes `waveforms` (batch, samples) float32 in [-1, 1] at the encoder's rate
    and, for encoders of log-mels, `lengths` (batch,) int64, the samples of each clip; it returns (batch,
    embedding_size) float32, the embeddings of [`AudioEmbedder`]. The file has `metadata.json` as an extra file, with
    the entries of [`export_onnx`].

    Args:
        source: Folder or Hub repository of an encoder.
        target: File to write, `.pt2`.

    Raises:
        OSError: No such source, or no feature extractor in it.
        NotExportableError: An encoder or front end that cannot be exported.
        ValueError: `target` has another suffix.
    """
    check_suffix(target, ".pt2")
    encoder, metadata = load(source)
    program, _ = trace(encoder)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # has paths of whoever exports
    torch.export.save(program, os.fspath(target), extra_files={METADATA_FILE: json.dumps(metadata)})


def export_onnx(source: str | os.PathLike, target: str | os.PathLike, int8: bool = False) -> None:
    """Writes the graph from waveforms to embeddings as one ONNX file.

    Its inputs are `waveforms` (batch, samples) float32 in [-1, 1] at the encoder's rate and, for encoders of log-mels,
    `lengths` (batch,) int64, the samples of each clip, after which anything may follow. Its output, `embeddings`
    (batch, embedding_size) float32, equals that of [`AudioEmbedder`] to 1e-4. A clip may have at most `max_samples`,
    which the graph cannot check: longer recordings are cut by the caller, who averages the windows. Encoders of
    waveforms take clips of one length in a batch.

    The file's metadata have `sampling_rate` in Hz, `min_samples`, `max_samples` and `max_seconds` of a clip,
    `equal_lengths`, `embedding_size`, `whitening_size` (0 without a whitening), `pooling`, `model_type` and the version
    of `uamix_hf`.

    Args:
        source: Folder or Hub repository of an encoder.
        target: File to write, `.onnx`.
        int8: Whether the weights of the linear layers of the encoder's layers are int8, one scale a column, and their
            inputs are quantised when the graph runs (ONNX Runtime's dynamic quantisation). Front end, first
            convolutions, attention and whitening stay float32.

    Raises:
        OSError: No such source, or no feature extractor in it.
        NotExportableError: An encoder or front end that cannot be exported.
        ImportError: onnx, onnxscript or, with `int8`, onnxruntime is not installed.
        ValueError: `target` has another suffix.
    """
    check_suffix(target, ".onnx")
    check_installed("onnx", "onnxscript", *(["onnxruntime"] if int8 else []))
    encoder, metadata = load(source)
    with tqdm(total=3 + int8, desc="Exporting", unit="step") as bar, quiet_exporter():
        traced, sizes = trace(encoder)
        bar.update()
        program: Any = torch.onnx.export(
            traced, dynamo=True, verbose=False, dynamic_shapes=sizes,
            input_names=["waveforms", "lengths"][: len(sizes)], output_names=["embeddings"],
        )  # fmt: skip
        bar.update()
        layers, nodes = f"/encoder.{encoder.adapter.layers_path}.", list(program.model.graph)
        products = [node for node in nodes if layers in node.metadata_props.get("namespace", "")]
        linear = [node.name for node in products if node.op_type in ("MatMul", "Gemm")]
        if int8 and not linear:  # without names, the quantiser would take all products, also those of the log-mels
            raise NotExportableError(f"int8: {type(encoder.encoder).__name__} has no linear layers: export float32.")
        for node in nodes:
            node.metadata_props.clear()  # lines of source code, with paths of whoever exports
        program.model.metadata_props.update(metadata)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "float32.onnx") if int8 else os.fspath(target)
            program.save(file)
            bar.update()
            if int8:
                quantize(file, target, linear)
                bar.update()


def quantize(source: str, target: str | os.PathLike, nodes: list[str]) -> None:
    """Writes an ONNX file in which the weights of matrix products are int8.

    Args:
        source: File in float32.
        target: File to write.
        nodes: Names of the products; those of two activations stay as they are.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source, os.fspath(target), op_types_to_quantize=["MatMul", "Gemm"], nodes_to_quantize=nodes, per_channel=True,
        weight_type=QuantType.QInt8,
    )  # fmt: skip


def check_suffix(target: str | os.PathLike, suffix: str) -> None:
    """Raises ValueError if a file to write has another suffix."""
    if Path(target).suffix != suffix:
        raise ValueError(f"{os.fspath(target)} is no {suffix} file: give the name of the file to write, with {suffix}.")


def check_installed(*packages: str) -> None:
    """Raises ImportError, with what to install, if a package is absent."""
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(MISSING.format(package)) from error


@contextmanager
def quiet_exporter() -> Generator[None, None, None]:
    """A context without the remarks of the exporter and of the quantiser about themselves."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger()]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


__all__ = ["export_onnx", "export_program"]
