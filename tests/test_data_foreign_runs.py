"""Rows of five projects, as they are, trained on for two steps with words of one's own, and measured by `bench run`."""

import json

import pyarrow as pa
import yaml
from test_data_foreign_rows import HOW, VERL, chat, png, talk, written

from vlrl import bench


def test_rows_of_five_projects_train_together(tmp_path, run_train, small):
    images = [png(colour=(i * 8, 100, 50)) for i in range(20)]
    for i, data in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(data)

    def cell(i):
        return {"bytes": images[i], "path": None}

    features = {"label": {"names": ["one", "two"], "_type": "ClassLabel"}}
    labels = pa.Table.from_pylist([{"image": cell(i), "label": i % 2} for i in range(4)])
    truth = {"reward_model": {"style": "rule", "ground_truth": "4"}}
    files = [
        written(tmp_path, [chat(HOW, "1", images=[f"{i}.png"]) for i in range(4, 8)], "swift.jsonl"),
        written(tmp_path, [talk(HOW, "2", "What colour?", "red", image=f"{i}.png") for i in range(8, 12)], "llava.json"),
        written(tmp_path, [{"images": [cell(i)], "problem": HOW, "answer": "3"} for i in range(12, 16)], "easyr1.parquet"),
        written(tmp_path, [VERL | truth | {"images": [cell(i)]} for i in range(16, 20)], "verl.parquet"),
        written(
            tmp_path,
            labels.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
            "hf.parquet",
        ),
    ]
    data = ",".join(map(str, files))
    run = tmp_path / "run"
    own = ["--system_prompt", "Look closely.", "--prompt_template", "{prompt} Be short.", "--val_split", "4"]
    code, out, err = run_train("--task", "qa", "--data", data, "--stage", "grpo", *own, "--output_dir", run, *small)
    assert (code, err) == (0, "")
    assert "20 samples of" in out
    assert "Look closely." in out
    values = yaml.safe_load((run / "config.yaml").read_text())
    assert (values["system_prompt"], values["prompt_template"]) == ("Look closely.", "{prompt} Be short.")
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 2
    words = ["run", "--task", "qa", "--data", data, "--limit", "3", "--output_path", str(tmp_path / "bench")]
    assert bench.main([*words, "--prompt_template", "{prompt} Be short."]) == 0
    made = [json.loads(line) for line in (tmp_path / "bench" / "predictions.jsonl").read_text().splitlines()]
    assert len(made) == 3
    assert all(one["meta"]["prompt"].endswith(" Be short.") for one in made)
