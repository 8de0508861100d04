"""What target prompts are made of: router, similarities, and the prompts of a store."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compt_fast.analysis import draw
from compt_fast.analysis.about_scores import panels
from compt_fast.analysis.contrasts import Point, grouped, labels
from compt_fast.analysis.exhibits import Cell, Exhibit, Section, Table
from compt_fast.analysis.formulas import Anatomy, anatomy
from compt_fast.analysis.runs import Entry, Material, suite_name
from compt_fast.analysis.words import examples, slug
from compt_fast.prompts.artifact import load_prompts
from compt_fast.prompts.similarity import mean_cosine
from compt_fast.prompts.store import PromptStore
from compt_fast.utils.words import listed, short

Values = list[list[float | None]]


def anatomy_of(material: Material, entry: Entry) -> Anatomy | None:
    """The anatomy of a run's stored prompts, read once; None where they are a function of the input.

    Raises `InputError` for damaged prompts.
    """
    if entry.prompts not in material.anatomies:
        material.anatomies[entry.prompts] = _read_anatomy(entry)
    return material.anatomies[entry.prompts]


def _read_anatomy(entry: Entry) -> Anatomy | None:
    parts = [load_prompts(folder) for folder in entry.stored]
    tensors = parts[0][0].tensors
    if "targets" not in tensors:
        return None
    if len(parts) > 1:  # tasks trained apart, a prompt each
        tensors = {name: torch.cat([prompts.tensors[name] for prompts, _ in parts]) for name in ("targets", "privates")}
    return anatomy(tensors, short(entry.tasks), short(parts[0][1].source_tasks or []))


def _about(material: Material) -> list[tuple[str, str, Anatomy]]:
    """Stem, title and anatomy of every portrait."""
    found = []
    for entry in material.portraits:
        parts = anatomy_of(material, entry)
        if parts is not None:
            folder = f" ({material.names[entry.folder]})" if len(material.folders) > 1 else ""
            title = f"{suite_name(entry.job)}: {entry.id}{folder}"
            found.append((slug(title), title, parts))
    return found


def router(material: Material) -> Section | None:
    """Weights of sources, private prompts and gates (CrossPT, figure 7, right; figure 9)."""
    exhibits = []
    for stem, title, parts in _about(material):
        if parts.weights is not None and parts.weights.shape[1] > 1:
            exhibits.append(_weights(stem, title, parts, parts.weights))
    if not exhibits:
        return None
    intro = (
        "The share of each source prompt (and, in CrossPT's presets, of the private prompt) in the target prompt of "
        "each task. For spp and scp the gates of sources (β) and private prompt (α) stand beside the weights."
    )
    return Section("Router weights", intro, exhibits)


def _weights(stem: str, title: str, parts: Anatomy, weights: Tensor) -> Exhibit:
    inside = weights.shape[1] > len(parts.sources)
    gated = parts.gates is not None and not inside
    columns = [*parts.sources, *(["private"] if inside else []), *(["β", "α"] if gated else [])]
    whole = weights.double()
    if gated and parts.gates is not None:
        whole = torch.cat([whole, parts.gates.double().flip(-1)], dim=1)
    values: Values = whole.tolist()
    n = len(parts.sources)
    return Exhibit(
        f"router-{stem}",
        title,
        _weights_say(parts, weights.double(), inside),
        "weights w; rows are tasks, columns prompts" + ("; gates β (sources) and α (private)" if gated else ""),
        _matrix(parts.tasks, columns, values),
        draw.heatmap(
            values, parts.tasks, columns, scale=draw.SHARE, label="weight", gaps=[n] if len(columns) > n else []
        ),
    )


def _weights_say(parts: Anatomy, weights: Tensor, inside: bool) -> str:
    """Which sources are shared by which tasks, and who lives on the private prompt."""
    n = len(parts.sources)
    top = weights[:, :n].argmax(1).tolist()
    shared = {s: [parts.tasks[t] for t in range(len(top)) if top[t] == s] for s in dict.fromkeys(top)}
    uniform = float((weights - weights.mean(1, keepdim=True)).abs().max()) < 0.05
    said = []
    if uniform:
        low, high = float(weights.min()), float(weights.max())
        said.append(f"the weights are almost uniform ({low:.2f} to {high:.2f}): no task prefers a prompt")
    elif n > 1:
        most = max(shared, key=lambda s: len(shared[s]))
        tasks = listed(shared[most])
        of_their_own = f"every task has another largest source, {len(shared)} of {n} lead"
        many = f"the largest source of {tasks} is {parts.sources[most]}; {len(shared)} of {n} lead for some task"
        said.append(many if len(shared[most]) > 1 else of_their_own)
    if inside:
        own = weights[:, -1]
        mostly = [parts.tasks[t] for t in range(len(own)) if own[t] == weights[t].max()]
        said.append(
            f"the private prompt holds {float(own.mean()):.2f} on average and is the largest part of "
            + ("every task" if len(mostly) == len(own) else listed(mostly) if mostly else "no task")
        )
    elif parts.gates is not None:
        alpha, beta = parts.gates.double().mean(0).tolist()
        said.append(f"the gates pass {beta:.2f} of the sources and {alpha:.2f} of the private prompt on average")
    text = "; ".join(said)
    return text[:1].upper() + text[1:] + "."


def similarity(material: Material) -> Section | None:
    """Cosines of target prompts and their parts (CrossPT, Eq. 2 and figure 7, left)."""
    exhibits = []
    for stem, title, parts in _about(material):
        if parts.similarity is not None:
            exhibits.append(_similar(stem, title, parts, parts.similarity))
    if not exhibits:
        return None
    intro = (
        "The cosine of the mean token of each task's target prompt with that of each source prompt and of its own "
        "private prompt: 1 is the same direction, 0 nothing in common."
    )
    return Section("Target-source similarity", intro, exhibits)


def _similar(stem: str, title: str, parts: Anatomy, sources: Tensor) -> Exhibit:
    columns, whole = list(parts.sources), sources
    if parts.to_private is not None:
        columns, whole = [*columns, "private"], torch.cat([whole, parts.to_private[:, None]], dim=1)
    values: Values = whole.tolist()
    nearest, task = divmod(int(sources.T.argmax()), len(parts.tasks))
    says = (
        f"Nearest is {parts.tasks[task]} to {parts.sources[nearest]} ({float(sources.max()):.2f}); on average targets "
        f"and sources have a cosine of {float(sources.mean()):.2f}"
    )
    if parts.to_private is not None:
        private = parts.to_private
        low, high = int(private.argmin()), int(private.argmax())
        says += (
            f", targets and their private prompts one of {float(private.mean()):.2f}: most {parts.tasks[high]}, least "
            f"{parts.tasks[low]}"
        )
    return Exhibit(
        f"similarity-{stem}",
        title,
        says + ".",
        "cosine of mean tokens; rows are target prompts, columns the prompts that they are made of",
        _matrix(parts.tasks, columns, values),
        draw.heatmap(
            values,
            parts.tasks,
            columns,
            scale=draw.COSINE,
            label="cosine similarity",
            gaps=[len(parts.sources)] if parts.to_private is not None else [],
        ),
    )


def weighted(material: Material) -> Section | None:
    """Weighted similarity to source prompts by setting (CrossPT, Eq. 3 and figure 8)."""
    exhibits = []
    stored = [entry for entry in material.entries if entry.stored]
    for suite, entries in panels(replace(material, entries=stored)).items():
        measured = {id(entry): parts for entry in entries if (parts := anatomy_of(material, entry)) is not None}
        by_key = grouped([entry for entry in entries if id(entry) in measured], "shots")
        found: dict[str, dict[int | None, list[float]]] = {}
        for name, group in zip(labels(list(by_key)), by_key.values(), strict=True):
            found[name] = {}
            for entry in group:
                value = measured[id(entry)].weighted
                if value is not None:
                    found[name].setdefault(entry.config.shots, []).append(value)
        if any(found.values()):
            exhibits.append(_weighted(suite, found))
    if not exhibits:
        return None
    intro = (
        "How much target prompts rely on sources: cosine of target and source, weighed by the router, averaged over "
        "tasks. One source without a private prompt gives 100 whatever it learns; without sources nothing is defined."
    )
    return Section("Weighted similarity to source prompts", intro, exhibits)


def _weighted(suite: str, found: dict[str, dict[int | None, list[float]]]) -> Exhibit:
    """`found`: the values of each setting by shots."""
    defined = {name: statistics.fmean(v for values in of.values() for v in values) for name, of in found.items() if of}
    undefined = [name for name, of in found.items() if not of]
    ranked = sorted(defined, key=lambda name: -defined[name])
    whole = [name for name in ranked if defined[name] > 99.99]
    others = [name for name in ranked if name not in whole]
    said = [f"{listed(whole)} {'is' if len(whole) == 1 else 'are'} at 100"] if whole else []
    if others:
        said.append(f"{others[0]} relies most on its sources ({defined[others[0]]:.1f})")
    if len(others) > 1:
        said.append(f"{others[-1]} least ({defined[others[-1]]:.1f})")
    if undefined:
        said.append(
            f"not defined for {listed(undefined)}, which {'has' if len(undefined) == 1 else 'have'} no weighed sources"
        )
    shots = sorted({k for of in found.values() for k in of}, key=lambda k: (k is None, k or 0))
    levels: dict[str, list[Point | None]] = {}
    for k in shots:
        points = (found[name].get(k) for name in ranked)
        levels[examples(k)] = [Point(k, tuple(p)) if p else None for p in points]
    rows: list[list[Cell]] = []
    for name, of in found.items():
        for k, values in of.items():
            sd = statistics.stdev(values) if len(values) > 1 else None
            rows.append([name, "all" if k is None else k, statistics.fmean(values), sd, len(values)])
    rows += [[name, None, None, None, None] for name in undefined]
    return Exhibit(
        slug(f"weighted similarity {suite}"),
        suite,
        "; ".join(said) + ".",
        "weighted similarity to source prompts, percent; mean ± standard deviation over seeds",
        Table(["run", "shots", "weighted similarity", "sd", "seeds"], rows),
        draw.dots(ranked, levels, xlabel="weighted similarity to sources, %"),
    )


def tokens(material: Material) -> Section | None:
    """Token-level similarity of tasks (CrossPT, Eq. 4 and figure 9)."""
    exhibits = []
    for stem, title, parts in _about(material):
        if len(parts.tasks) > 1:
            values: Values = parts.tokens.tolist()
            exhibits.append(
                Exhibit(
                    f"tokens-{stem}",
                    title,
                    _pairs_say(parts.tasks, parts.tokens),
                    "mean over the prompt's tokens of the cosine of two target prompts",
                    _matrix(parts.tasks, parts.tasks, values),
                    draw.heatmap(values, parts.tasks, parts.tasks, scale=draw.COSINE, label="token-level cosine"),
                )
            )
    if not exhibits:
        return None
    return Section("Task similarity", "How alike the target prompts of two tasks are, token by token.", exhibits)


def stored(material: Material) -> Section | None:
    """The prompts of a store compared with each other, by the mean-token cosine."""
    exhibits = []
    for folder in material.stores:
        store = PromptStore(folder)
        prompts = [store.load(name) for name in store.names()]
        widths = {prompt.d_model for prompt in prompts}
        for width in sorted(widths):
            own = [prompt for prompt in prompts if prompt.d_model == width]
            if len(own) > 1:
                # pair by pair: their lengths may differ
                cosines = [[float(mean_cosine(a.values[None], b.values[None])) for b in own] for a in own]
                exhibits.append(_store(material.names[folder], width, [prompt.name for prompt in own], cosines))
    if not exhibits:
        return None
    intro = "The cosine of the mean tokens of every two prompts of a store, which SPoT chooses a source by."
    return Section("Stored prompts", intro, exhibits)


def _store(name: str, width: int, names: list[str], cosines: list[list[float]]) -> Exhibit:
    values: Values = [list(row) for row in cosines]
    return Exhibit(
        slug(f"stored {name} {width}"),
        f"{name} (d_model {width})",
        _pairs_say(names, torch.tensor(cosines)),
        "cosine of mean tokens",
        _matrix(names, names, values),
        draw.heatmap(values, names, names, scale=draw.COSINE, label="cosine similarity"),
    )


def _pairs_say(names: Sequence[str], cosines: Tensor) -> str:
    """The most and the least alike of all pairs."""
    pairs = {(i, j): float(cosines[i, j]) for i in range(len(names)) for j in range(i)}
    (a, b), (c, d) = max(pairs, key=lambda at: pairs[at]), min(pairs, key=lambda at: pairs[at])
    most = f"Most alike are {names[b]} and {names[a]} ({pairs[a, b]:.2f})"
    if len(pairs) == 1:
        return most.replace("Most alike are", "Alike by cosine:") + "."
    mean = statistics.fmean(pairs.values())
    if max(pairs.values()) - min(pairs.values()) < 0.005:
        return f"All pairs are equally alike ({mean:.2f})."
    return f"{most}, least {names[d]} and {names[c]} ({pairs[c, d]:.2f}); the mean of all pairs is {mean:.2f}."


def _matrix(rows: Sequence[str], columns: Sequence[str], values: Values) -> Table:
    cells: list[list[Cell]] = [[name, *row] for name, row in zip(rows, values, strict=True)]
    return Table(["", *columns], cells, decimals=3)
