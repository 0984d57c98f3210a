"""The files that are saved with weights as remote code, by name: those of the extractor, and all of Audio-MAE."""

EXTRACTOR_CODE = {
    "feature_extraction_audio_mae.py",
    "filter_banks_audio_mae.py",
    "loading_audio_mae.py",
    "padding_audio_mae.py",
    "waveforms_audio_mae.py",
}
AUDIO_MAE_CODE = EXTRACTOR_CODE | {
    "configuration_audio_mae.py",
    "decoder_audio_mae.py",
    "layers_audio_mae.py",
    "masking_audio_mae.py",
    "modeling_audio_mae.py",
    "patches_audio_mae.py",
    "pooling_audio_mae.py",
}
