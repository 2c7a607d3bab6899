"""`--log_format inspect`: the answers and scores of a run as logs of inspect_ai, by its own writer, for `inspect view`.

One log a task in `inspect/` of the results. Images are inside as in `report.html`: those of the worst answers, small.
Answers that the page may not show are not in the log either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlrl.bench.page_answers import Answer
from vlrl.bench.page_images import PageImages
from vlrl.data.markup import in_base64
from vlrl.tasks.evaluate import Scored, as_text

_FOLDER = "inspect"


def check_log_format(log_format: str | None) -> None:
    """Raises ValueError where a package that writes such a log is missing."""
    if log_format == "inspect" and find_spec("inspect_ai") is None:
        raise ValueError("--log_format inspect needs inspect_ai, which is not installed: pip install 'vlrl[inspect]'")


def write_inspect_logs(
    folder: Path, answers: Sequence[Answer], images: PageImages, scored: Sequence[Scored], result: Mapping[str, Any]
) -> list[Path]:
    """Write a log of each task, replacing those in the folder. `answers`, `images`: what the page shows. Returns the paths.
    Raises OSError."""
    from inspect_ai.log import write_eval_log

    target = folder / _FOLDER
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for number, one in enumerate(scored):
        own = [answer for answer in answers if answer.task == number]
        name = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in one.name)
        path = target / f"{name}.eval"
        files.append(target / f"{name}-{number}.eval" if path in files else path)
        write_eval_log(_log(one, own, images, result), str(files[-1]))
    return files


def _log(one: Scored, answers: Sequence[Answer], images: PageImages, result: Mapping[str, Any]) -> Any:
    """The `EvalLog` of one task."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalMetric, EvalResults, EvalScore, EvalSpec, EvalStats

    data, model = result.get("data") or {}, str(result.get("model"))
    written = datetime.now(UTC).isoformat()
    metrics = {
        name: EvalMetric(name=name, value=metric.value, metadata={"ci95": metric.ci95, "stderr": metric.stderr, "n": metric.n})
        for name, metric in one.metrics.items()
        if metric.value is not None
    }
    about = {key: result.get(key) for key in ("engine", "seed", "git_hash", "date", "n_failed")}
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=written,
            task=one.name,
            task_version=one.version,
            dataset=EvalDataset(
                name=str(data.get("description")),
                location=data.get("path"),
                samples=one.n,
                sample_ids=[answer.row.id for answer in answers],
            ),
            model=model,
            config=EvalConfig(),
            packages=dict(result.get("packages") or {}),
            metadata={**about, "data_sha256": data.get("sha256"), **({"label": one.label} if one.label else {})},
        ),
        results=EvalResults(
            total_samples=one.n,
            completed_samples=one.n,
            scores=[EvalScore(name=one.headline, scorer="vlrl", scored_samples=len(one.rows), metrics=metrics)],
        ),
        stats=EvalStats(started_at=written, completed_at=written),
        samples=[_sample(answer, one.headline, model, images) for answer in answers],
    )


def _sample(answer: Answer, headline: str, model: str, images: PageImages) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ContentImage, ContentText, ModelOutput, ModelUsage
    from inspect_ai.scorer import Score

    row, sample, prediction = answer.row, answer.sample, answer.prediction
    places = [place for place in images.of_sample.get(row.id, ()) if place is not None]
    urls = [f"data:image/jpeg;base64,{in_base64(images.thumbnails[place].jpeg)}" for place in places]
    shown = [ContentImage(image=url, detail="auto") for url in urls]
    asked = ChatMessageUser(content=[*shown, ContentText(text=answer.prompt)])
    output = ModelOutput.from_content(model, prediction.completion, "max_tokens" if prediction.truncated else "stop")
    usage = {}
    if prediction.n_tokens is not None:
        usage[model] = output.usage = ModelUsage(output_tokens=prediction.n_tokens, total_tokens=prediction.n_tokens)
    scores = {}
    if row.parts and math.isfinite(row.value):
        parts = {name: top / bottom for name, (top, bottom) in row.parts.items() if bottom}
        metadata = {"outcome": row.outcome, "parts": parts, "confidence": row.confidence}
        scores[headline] = Score(value=row.value, answer=row.answer, explanation=row.outcome, metadata=metadata)
    return EvalSample(
        id=row.id,
        epoch=1,
        input=[asked],
        target=row.ground_truth or as_text(sample.answer),
        choices=None if sample.choices is None else list(sample.choices),
        messages=[asked, ChatMessageAssistant(content=prediction.completion)],
        output=output,
        scores=scores,
        model_usage=usage,
        metadata={"images": list(sample.images), "video": sample.video, "truncated": prediction.truncated},
    )
