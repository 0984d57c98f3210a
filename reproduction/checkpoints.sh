#!/bin/sh
# Makes audio-mae-tiny, audio-mae-mini, uamix-mae-tiny and uamix-whisper-tiny.en and measures them:
# checkpoints.sh DATA OUTPUT. DATA is the folder of the four sets and of open_audio.
set -eu
data=$1 out=$2
here=$(dirname "$0")/..
rows="esc10:fold=1,2,3 fsdd:speaker=george,jackson speech_commands_sub:split=train"
folders="$data/esc10 $data/fsdd $data/speech_commands_sub"
launch="accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"

pretrain() {
    output=$1 pooling=$2; shift 2
    $launch "$here/examples/pretrain.py" --where $rows --output_dir "$output" \
        --preset tiny --per_device_train_batch_size 16 --learning_rate 1e-3 --warmup_steps 0.1 --max_grad_norm 1 \
        --save_strategy no --report_to none \
        --config_overrides 'position_layout="time_freq"' norm_pix_loss=false "pooling=\"$pooling\"" "$@"
}
pretrain "$out/pretrained" mean_time --train_dir $folders --num_train_epochs 60
pretrain "$out/pretrained-mini" mean_std_time hidden_size=256 num_attention_heads=4 intermediate_size=1024 \
    --train_dir $folders "$data"/open_audio/*/ --num_train_epochs 20 --use_cpu --bf16 true
uamix-hf export "$out/pretrained" "$out/audio-mae-tiny"
uamix-hf export "$out/pretrained-mini" "$out/audio-mae-mini"
python -c 'import sys, uamix_hf
extractor = uamix_hf.AudioMAEFeatureExtractor.from_pretrained(sys.argv[1], resample_below=96)
extractor.save_pretrained(sys.argv[1])' "$out/audio-mae-mini"
$launch "$here/examples/tune.py" --model_name_or_path "$out/audio-mae-tiny" --train_dir $folders --where $rows \
    --output_dir "$out/tuned" --save_strategy no --report_to none --seed 0 --recipe plastic --max_steps 240 --head_steps 30 \
    --per_device_train_batch_size 32 --visit_frames 120 --min_crop 0.6 --use_cpu --bf16 true \
    --projector_hidden_size 512 --projection_size 128 --predictor_hidden_size 512
uamix-hf export "$out/tuned" "$out/uamix-mae-tiny"

python "$here/reproduction/recipe.py" --settings "$here/reproduction/whisper.json" --data "$data" --rows validation \
    --model_name_or_path openai/whisper-tiny.en --output_dir "$out/whisper" --variants open-2e-5-raw open-2e-5
uamix-hf export "$out/whisper/open-2e-5-0" "$out/uamix-whisper-tiny.en"

odd=$(python "$here/reproduction/speakers.py" "$data/speech_commands_sub/metadata.csv" test)
evaluate() {
    name=$1; shift
    python "$here/examples/few_shot.py" --model_name_or_path $encoders --model_labels $labels \
        --data_dir "$data/$name" --label_column label \
        --protocol few_shot knn linear --n_splits 2 --output_dir "$results/$name" "$@"
}
evaluate_all() {
    evaluate esc10 --where fold=5 --group_column src_file
    evaluate fsdd --where speaker=theo
    evaluate speech_commands_sub --where split=test "$odd" --group_column speaker
    evaluate urbansound8k_sub --where fold=1,2 --group_column fs_id
    python "$here/reproduction/write_cards.py" "$results" "$out" "$@"
}
encoders="$out/audio-mae-tiny $out/uamix-mae-tiny" labels="audio-mae-tiny uamix-mae-tiny" results=$out/results
evaluate_all audio-mae-tiny uamix-mae-tiny
encoders="$out/audio-mae-tiny $out/audio-mae-mini" labels="audio-mae-tiny audio-mae-mini" results=$out/results-mini
evaluate_all audio-mae-mini
encoders="openai/whisper-tiny.en $out/uamix-whisper-tiny.en" labels="whisper-tiny.en uamix-whisper-tiny.en" results=$out/results-whisper
evaluate_all uamix-whisper-tiny.en
