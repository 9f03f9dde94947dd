# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""The next token of a text by a language model, and what temperature and truncation make of it.

    uv run --group explorer marimo run examples/explorer.py

A marimo app on SmolLM2-135M-Instruct. What is not the page itself is in `exploration.py`.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="What comes next? jsoftmax")

with app.setup:
    import html
    import math

    import altair as alt
    import marimo as mo

    # The page draws the menu of a chart only where it is not told otherwise.
    alt.renderers.set_embed_options(actions=False)
    # In the middle of the scale: seen on a light page and on a dark one.
    MODEL, DRAWN_FROM = "#868e96", "#5c7cfa"
    QUIET = "font-size: 0.8rem; line-height: 1.3; opacity: 0.75"


@app.cell
def _():
    mo.md("""
    # What comes next?

    To every token it knows, a language model gives a probability of coming next. Which one does is
    decided afterwards: a **temperature** reshapes the distribution, and **truncations** cut what is
    unlikely. Move a slider; then draw a token, or click on one, and the text goes on.
    """)
    return


@app.cell
def _():
    prompt = mo.ui.text_area(
        "The best thing about the sea is",
        label="**Text**",
        placeholder="Something for the model to go on from",
        rows=2,
        debounce=300,
        full_width=True,
    )
    as_question = mo.ui.switch(label="put it to the model as a question")
    seed = mo.ui.number(0, 2**32 - 1, value=0, label="Seed")
    mo.vstack([prompt, mo.hstack([as_question, seed], justify="start", wrap=True, gap=2)])
    return as_question, prompt, seed


@app.cell
def _():
    with mo.status.spinner(
        title="Loading SmolLM2-135M-Instruct", subtitle="seconds, and once for all pages"
    ):
        import exploration

        language_model = exploration.load()
        # What it has read is kept from text to text.
        reader = exploration.Reader(language_model)
    return exploration, language_model, reader


@app.cell
def _(language_model):
    def _slider(name, steps, value):
        return mo.ui.slider(steps=steps, value=value, label=f"**{name}**", full_width=True)

    def _hundredths(last, by=1):
        return [i / 100 for i in range(0, last + 1, by)]

    _everything = language_model.vocab_size
    _counts = [*range(1, 11), 12, 15, 20, 25, 30, 40, 50, 75, 100, 200, 500, 1000, 5000, 20000]
    # Not one mo.ui.dictionary: where two of its sliders move at once, marimo loses the first move.
    temperature = _slider("Temperature", _hundredths(200, by=5), 1.0)
    top_k = _slider("Top-k", [*_counts, _everything], _everything)
    top_p = _slider("Top-p", _hundredths(100), 0.9)
    min_p = _slider("Min-p", _hundredths(100), 0.0)
    typical = _slider("Typical", _hundredths(100), 1.0)
    return min_p, temperature, top_k, top_p, typical


@app.cell
def _(as_question, exploration, prompt, reader):
    # A new text begins a new exploration.
    try:
        explored = exploration.Exploration(reader, prompt.value, as_question=as_question.value)
    except ValueError as _error:
        mo.stop(True, mo.callout(f"{_error}".capitalize() + ".", kind="warn"))
    # Its tokens change when a button is pressed: what reads the number is then run again.
    get_change, set_change = mo.state(0)
    return explored, get_change, set_change


@app.cell
def _(explored, seed, set_change):
    def _button(label, action, **options):
        def act(_):
            action()
            set_change(lambda number: number + 1)

        return mo.ui.button(label=label, on_change=act, **options)

    draw = _button("Draw a token", lambda: explored.draw(seed.value or 0), kind="success")
    undo = _button("Undo", explored.undo)
    start_over = _button("Start over", explored.start_over)
    return draw, start_over, undo


@app.cell
def _(exploration, explored, get_change, min_p, temperature, top_k, top_p, typical):
    get_change()
    controls = exploration.Controls(
        temperature.value, top_k.value, top_p.value, min_p.value, typical.value
    )
    view = explored.look(controls)
    return controls, view


@app.function
def percent(p):
    return f"{p:.1%}" if p >= 0.0005 or p == 0 else "<0.1%"


@app.function
def rows_of(view, rules, show):
    """What the chart draws: one row for each of the likeliest tokens, likeliest first."""
    seen = view.explanation
    candidates = zip(seen.candidates, seen.model, seen.drawn_from, view.cut_by, strict=True)
    # A few lengths only, so that most moves of a slider leave the scale alone.
    longest = max(seen.model.max(), seen.drawn_from.max())
    end = next((end for end in (0.05, 0.1, 0.2, 0.3, 0.5, 0.75) if longest <= end), 1.0)
    rows = []
    for rank, (token, model, drawn_from, cut_by) in enumerate(candidates, start=1):
        kept = bool(cut_by == len(rules))
        verdict = percent(drawn_from) if kept else f"✕ {rules[cut_by]}"
        rows.append(
            {
                # Two tokens may look the same: their ranks tell them apart, and are not written.
                "name": f"{rank}|{show(int(token))}",
                "numbers": f"{rank}|{percent(model):>5}  {verdict:>5}",
                "token": int(token),
                "kept": kept,
                "fate": "kept" if kept else f"cut by {rules[cut_by]}",
                "model": float(model),
                "drawn from": float(drawn_from),
                "end": end,
            }
        )
    return rows


@app.cell
def _():
    # Built once: Altair checks a chart against its schema, which takes longer than all the rest.
    _label = {
        "title": None,
        "domain": False,
        "ticks": False,
        "labelPadding": 8,
        "labelFont": "monospace",
        "labelFontSize": 12.5,
        "labelExpr": "slice(datum.label, indexof(datum.label, '|') + 1)",
    }
    _color = alt.when("datum.half == 'model'").then(alt.value(MODEL))
    _color = _color.otherwise(alt.value(DRAWN_FROM))
    _bars = (
        alt.Chart(alt.NamedData("rows"))
        .transform_fold(["model", "drawn from"], as_=["half", "p"])
        .mark_bar(cornerRadiusEnd=2, strokeWidth=1)
        .encode(
            x=alt.X("p:Q", title=None)
            .scale(nice=False)
            .axis(
                format="%", tickCount=5, orient="top", domain=False, ticks=False, gridOpacity=0.3
            ),
            y=alt.Y("name:N", sort=None).scale(paddingInner=0.2, paddingOuter=0.1).axis(**_label),
            yOffset=alt.YOffset("half:N", sort=["model", "drawn from"]),
            fill=_color,
            stroke=_color,
            # A cut token keeps an outline only.
            fillOpacity=alt.when("datum.kept").then(alt.value(0.9)).otherwise(alt.value(0)),
            strokeOpacity=alt.when("datum.p > 0").then(alt.value(1)).otherwise(alt.value(0)),
            strokeDash=alt.when("datum.kept").then(alt.value([1, 0])).otherwise(alt.value([3, 2])),
        )
    )
    # All of a row can be clicked, however short its bars are. The numbers are labels of an axis:
    # these take the colour of the page's theme.
    _whole = (
        alt.Chart(alt.NamedData("rows"))
        .mark_bar(opacity=0, cursor="pointer")
        .encode(
            x="end:Q",
            y=alt.Y("numbers:N", sort=None)
            .scale(paddingInner=0, paddingOuter=0)
            .axis(orient="right", labelOpacity=0.8, **_label),
            tooltip=[
                alt.Tooltip("model:Q", format=".4%"),
                alt.Tooltip("drawn from:Q", format=".4%"),
                alt.Tooltip("fate:N"),
                alt.Tooltip("token:Q", title="number"),
            ],
        )
        .add_params(alt.selection_point("pick", fields=["token"], toggle=False, empty=False))
    )
    figure = (
        alt.layer(_bars, _whole)
        .resolve_scale(y="independent")
        .properties(width="container", height=700)
        .configure(background="transparent", view=alt.ViewConfig(stroke=None))
    )
    return (figure,)


@app.function
def meanings(controls, counts):
    """What each slider does where it stands, and how many tokens its rule leaves."""
    temperature, top_k, top_p, min_p, typical = controls
    everything, *left = (f"{count:,} left" for count in counts)
    if temperature == 0:
        shape = f"the limit: only the likeliest, {everything}"
    elif temperature == 1:
        shape = "as the model says"
    else:
        shape = "sharper: what is likely gains" if temperature < 1 else "flatter: the tail gains"
    return [
        f"<b>{temperature:g}</b> · {shape}",
        f"<b>{top_k:,}</b> likeliest tokens · {left[0]}" if top_k < counts[0] else "off",
        f"the smallest set with a mass of <b>{top_p:g}</b> · {left[1]}" if top_p < 1 else "off",
        f"at least <b>{min_p:g}</b> times as likely as the likeliest · {left[2]}"
        if min_p > 0
        else "off",
        f"about as surprising as expected, a mass of <b>{typical:g}</b> · {left[3]}"
        if typical < 1
        else "off",
    ]


@app.cell
def _(exploration, explored, figure, language_model, set_change, view):
    def _pick(_):
        for token in chart.selections.get("pick", {}).get("token", [])[:1]:
            explored.pick(token)
            set_change(lambda number: number + 1)

    _figure = figure.copy(deep=False)
    _figure.datasets = {"rows": rows_of(view, exploration.RULES, language_model.show)}
    chart = mo.ui.altair_chart(
        _figure,
        chart_selection=False,
        legend_selection=False,
        on_change=_pick,
    )
    return (chart,)


@app.cell
def _(controls, min_p, temperature, top_k, top_p, typical, view):
    _sliders = [temperature, top_k, top_p, min_p, typical]
    left = mo.vstack(
        [
            mo.vstack([slider, mo.Html(f'<div style="{QUIET}">{meaning}</div>')], gap=0.25)
            for slider, meaning in zip(_sliders, meanings(controls, view.counts), strict=True)
        ],
        gap=1.25,
    )
    return (left,)


@app.cell
def _(exploration, explored, language_model, view):
    def _entropy(nats):
        return f"≈ {math.exp(nats):,.1f} equally likely"

    def _signed(log_prob):
        return f"{log_prob:.2f}".replace("inf", "∞").replace("-", "\N{MINUS SIGN}")

    def _stat(label, value, caption):
        return (
            f'<div><div style="{QUIET}">{label}</div>'
            f'<div style="font-size: 1.5rem; line-height: 1.4">{value}</div>'
            f'<div style="{QUIET}">{caption}</div></div>'
        )

    _seen = view.explanation
    _stats = [
        _stat("Kept", f"{_seen.kept_count:,}", f"of {language_model.vocab_size:,} tokens"),
        _stat("Kept mass", percent(float(_seen.kept_mass)), "at this temperature"),
        _stat("Entropy, model", f"{_seen.model_entropy:.2f} nats", _entropy(_seen.model_entropy)),
        _stat("Entropy, draw", f"{_seen.entropy:.2f} nats", _entropy(_seen.entropy)),
    ]
    _last, _of = "\N{EN DASH}", "of the last token"
    if explored.choices:
        _choice = explored.choices[-1]
        _last = _signed(_choice.log_prob)
        _of = f"of <b>{html.escape(language_model.show(_choice.token))}</b>, by the model "
        _of += _signed(_choice.model_log_prob)
    _stats.append(_stat("Log-probability", _last, _of))
    numbers = mo.Html(
        '<div style="display: grid; gap: 1rem 0.75rem;'
        f' grid-template-columns: repeat(auto-fit, minmax(6.6rem, 1fr))">{"".join(_stats)}</div>'
    )

    # The text: what the model read, then token by token what was chosen.
    _chosen = "".join(
        f'<span style="border-bottom: 2px {"solid" if _choice.drawn else "dotted"} {DRAWN_FROM};'
        f' margin-right: 1px" title="log-probability {_signed(_choice.log_prob)}">'
        f"{html.escape(piece)}</span>"
        for piece, _choice in zip(explored.pieces(), explored.choices, strict=True)
    )
    text = mo.Html(
        '<div style="white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.1rem;'
        f' line-height: 1.7; max-height: 14rem; overflow-y: auto"><span style="opacity: 0.75">'
        f"{html.escape(explored.text)}</span>{_chosen}"
        f'<span style="opacity: 0.5">{" (full)" if explored.full else " …"}</span></div>'
    )

    def _swatch(style, meaning):
        return (
            '<span style="white-space: nowrap"><span style="display: inline-block; width: 0.8rem;'
            f' height: 0.7rem; margin-right: 0.4rem; {style}"></span>{meaning}</span>'
        )

    legend = mo.Html(
        f'<div style="{QUIET}; display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem">'
        + _swatch(f"background: {MODEL}", "by the model")
        + _swatch(f"background: {DRAWN_FROM}", "drawn from")
        + _swatch(f"border: 1px dashed {MODEL}", "cut")
        + "<span>Click on a row to go on with its token.</span></div>"
    )
    _kept = int(_seen.kept_count - (view.cut_by == len(exploration.RULES)).sum())
    _of_draw = float(1 - _seen.drawn_from.sum()) if _kept else 0.0
    others = mo.Html(
        f'<div style="{QUIET}">All other tokens together: {percent(float(1 - _seen.model.sum()))}'
        f" by the model, {percent(_of_draw)} of what is drawn from, {_kept:,} of them kept.</div>"
    )
    return legend, numbers, others, text


@app.cell
def _(chart, draw, left, legend, numbers, others, start_over, text, undo):
    def _column(grow, least, *items):
        return (
            f'<div style="flex: {grow} 1 {least}; min-width: 0">'
            f"{mo.vstack(items, gap=1.25).text}</div>"
        )

    _buttons = mo.hstack([draw, undo, start_over], justify="start", wrap=True)
    mo.Html(
        '<div style="display: flex; flex-wrap: wrap; gap: 2rem 3rem">'
        + _column(1, "17rem", left)
        + _column(3, "22rem", text, _buttons, numbers, legend, chart, others)
        + "</div>"
    )
    return


if __name__ == "__main__":
    app.run()
