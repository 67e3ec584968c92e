"use strict";
// The charts of an erasure that acts on activations: detection against false abstention, boxes, neurons by layer.
(function () {
  const { kinds, axis, layout, css, plain, short, CONFIG, SYMBOLS, DASHES } = expungeCharts;
  const percent = (share) => short(100 * share) + "%";
  const three = (value) => value === null ? "" : value.toPrecision(3);
  const MANY = 7; // lines that colours and dashes of their own can tell apart

  // Between two of the page's colours, so that many layers go from the one to the other by depth.
  function between(from, to, share) {
    const parts = (name) => [1, 3, 5].map((at) => parseInt(css(name).slice(at, at + 2), 16));
    const a = parts(from), b = parts(to);
    return `rgb(${a.map((value, at) => Math.round(value + share * (b[at] - value))).join(",")})`;
  }

  function looks(curves) {
    const alone = curves.filter((one) => one.name !== "all layers"), few = alone.length <= MANY;
    return curves.map((one) => {
      const at = alone.indexOf(one);
      if (at < 0) return { color: css("--ink"), dash: "solid", width: 3.5 }; // under all others, and so wider
      const color = few ? css("--c" + at) : between("--c0", "--c1", at / (alone.length - 1));
      return { color, dash: few ? DASHES[at] : "solid", width: one.used ? 2.5 : few ? 1.75 : 1.25 };
    });
  }

  // A logarithmic axis that has a place for 0, left of all others and wide enough for one line a curve.
  function shares(lowest, narrow) {
    const floor = Math.min(-1, Math.floor(Math.log10(lowest) + 1e-9)), zero = floor - 0.45;
    const fine = floor > -3 && !narrow ? [1, 2, 5] : [1], values = [];
    for (let e = floor; e <= 0; e++) for (const factor of fine) if (factor * 10 ** e <= 1) values.push(factor * 10 ** e);
    return {
      zero, range: [floor - 0.75, 0.04], end: floor - 0.15,
      place: (share, offset) => share > 0 ? Math.log10(share) : zero + offset,
      ticks: { tickvals: [zero, ...values.map((value) => Math.log10(value))], ticktext: ["0", ...values.map(percent)] },
    };
  }

  function said(curve, at) {
    const lines = [`<b>${plain(curve.name)}</b>, h = ${short(curve.scale[at])}`, `detected ${percent(curve.detected[at])}, falsely ${percent(curve.falsely[at])}`];
    const groups = Object.entries(curve.by_group).map(([name, shares]) => [name, shares[at]]).sort((a, b) => b[1] - a[1]);
    lines.push(...groups.slice(0, 6).map(([name, share]) => `${plain(name)}: falsely ${percent(share)}`));
    if (groups.length > 6) lines.push(`and ${groups.length - 6} more groups`);
    return lines.join("<br>");
  }

  function abstention(node, data) {
    const { curves, level, mark } = data.erasures[node.dataset.index], narrow = node.clientWidth < 560;
    const positive = curves.flatMap((one) => one.falsely).concat(level, mark ? mark.falsely : 0).filter((share) => share > 0);
    const scale = shares(Math.min(0.1, ...positive), narrow), styles = looks(curves);
    const offset = (at) => curves.length < 2 ? 0 : 0.4 * (at / (curves.length - 1) - 0.5);
    const few = curves.length <= MANY + 1, named = (one) => few ? one.name : one.name.replace(/^layer /, "");
    const traces = curves.map((one, at) => ({
      x: one.falsely.map((share) => scale.place(share, offset(at))), y: one.detected, mode: "lines",
      name: `${plain(named(one))}: ${three(one.area)}`, opacity: one.used || few ? 1 : 0.8,
      line: { shape: "hv", ...styles[at] }, customdata: one.scale.map((_, i) => said(one, i)), hovertemplate: "%{customdata}<extra></extra>",
    }));
    const notes = [], lines = [{ type: "rect", xref: "x", yref: "paper", x0: scale.range[0], x1: scale.end, y0: 0, y1: 1, fillcolor: css("--faint"), line: { width: 0 }, layer: "below" }];
    if (level) {
      const x = Math.log10(level), right = x > -0.6;
      lines.push({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: css("--soft"), width: 1.25, dash: "dash" } });
      notes.push({ x, y: 0.02, yref: "paper", yanchor: "bottom", xanchor: right ? "right" : "left", xshift: right ? -5 : 5, text: `${percent(level)} asked for`, showarrow: false, font: { size: 12, color: css("--soft") } });
    }
    if (mark) {
      const used = Math.max(0, curves.findIndex((one) => one.used)), x = scale.place(mark.falsely, offset(used)), right = mark.falsely > 0.3;
      traces.push({ x: [x], y: [mark.detected], mode: "markers", showlegend: false, cliponaxis: false, marker: { symbol: "circle", size: 12, color: css("--sheet"), line: { color: css("--ink"), width: 2.5 } },
        hovertemplate: `<b>h in use</b><br>falsely ${percent(mark.falsely)}<extra></extra>` });
      notes.push({ x, y: mark.detected, text: "h in use", showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: css("--ink"), ax: right ? -44 : 44, ay: mark.detected > 0.2 ? 36 : -36, standoff: 7, xanchor: right ? "right" : "left", bgcolor: css("--paper") });
    }
    // The legend stands above, in columns as wide as its longest name.
    const columns = Math.max(1, Math.floor((node.clientWidth - 20) / (7 * Math.max(...traces.map((one) => (one.name || "").length)) + 48)));
    const rows = Math.ceil(curves.length / columns) + 1;
    Plotly.react(node, traces, layout(node, {
      height: (narrow ? 340 : 400) + 19 * rows, margin: { l: 8, r: 24, t: 12, b: 8 }, shapes: lines, annotations: notes, showlegend: true,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 }, title: { text: few ? "Area under the curve" : "Layer: area under the curve", side: "top", font: { size: 12, color: css("--soft") } }, itemclick: false, itemdoubleclick: false },
      xaxis: axis("Share of retain rows that is detected" + (narrow ? "" : " (log scale)"), { range: scale.range, showgrid: false, tickangle: 0, ...scale.ticks }),
      yaxis: axis("Share of forget rows that is detected", { range: [-0.02, 1.04], tickvals: [0, 0.25, 0.5, 0.75, 1], tickformat: ".0%" }),
    }), CONFIG);
  }

  // Boxes by layer: a line where each layer has one, else a mark for each expert.
  function byLayer(node, boxes, parts, more) {
    const last = Math.max(-1, ...boxes.map((one) => one.layer === null ? -1 : one.layer)), outside = boxes.some((one) => one.layer === null);
    const single = new Set(boxes.map((one) => one.layer)).size === boxes.length;
    const x = boxes.map((one) => one.layer === null ? last + 1 : one.layer);
    const traces = parts.map(({ key, name, dash, tone }, at) => ({
      x, y: boxes.map((one) => one[key]), name, mode: single ? "lines+markers" : "markers", opacity: single ? 1 : 0.6,
      line: { color: css(tone), width: 2, dash }, marker: { color: css(tone), symbol: SYMBOLS[at], size: single ? 7 : 6 },
      text: boxes.map((one) => plain(one.layer === null || !single ? one.site : `layer ${one.layer}`)), hovertemplate: `<b>%{text}</b><br>${name || "log volume per neuron"} %{y:.3~g}<extra></extra>`,
    }));
    const step = Math.max(1, Math.ceil((last + 1) / 12)), shown = [];
    for (let layer = 0; layer <= last; layer += step) shown.push(layer);
    const ticks = { tickvals: outside ? [...shown, last + 1] : shown, ticktext: [...shown.map(String), ...(outside ? ["outside"] : [])] };
    const low = Math.min(...x), high = Math.max(...x);
    Plotly.react(node, traces, layout(node, { height: 300, showlegend: parts.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } },
      xaxis: axis("Layer", { range: [low - 0.4, high + 0.4], showgrid: false, ...ticks }), ...more }), CONFIG);
  }

  function boxDistance(node, data) {
    const { boxes, scale } = data.erasures[node.dataset.index];
    const values = boxes.flatMap((one) => [one.mean, one.largest, one.k_star]).concat(scale).filter((value) => value > 0);
    const wide = Math.max(...values) > 50 * Math.min(...values);
    const line = { type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: scale, y1: scale, line: { color: css("--ink"), width: 1.25 } };
    const words = { x: 1, xref: "paper", xanchor: "right", y: wide ? Math.log10(scale) : scale, yanchor: "bottom", text: `h = ${short(scale)}`, showarrow: false, font: { size: 12 }, bgcolor: css("--paper"), yshift: 1 };
    byLayer(node, boxes, [
      { key: "largest", name: "farthest neuron", dash: "solid", tone: "--c0" }, { key: "mean", name: "average neuron", dash: "dash", tone: "--c2" }, { key: "k_star", name: "k*", dash: "dot", tone: "--c1" },
    ], { shapes: scale ? [line] : [], annotations: scale ? [words] : [],
      yaxis: axis("Standard deviations" + (wide ? " (log scale)" : ""), wide ? { type: "log", nticks: 6 } : { rangemode: "tozero", nticks: 6 }) });
  }

  function boxVolume(node, data) {
    byLayer(node, data.erasures[node.dataset.index].boxes, [{ key: "volume", name: "", dash: "solid", tone: "--c0" }], { yaxis: axis("", { nticks: 6 }) });
  }

  function chosen(node, data) {
    const { neurons, run } = data.erasures[node.dataset.index], step = Math.max(1, Math.ceil(neurons.length / 12));
    const shown = neurons.map((_, at) => at).filter((at) => at % step === 0 || !/^\d+$/.test(neurons[at].name));
    Plotly.react(node, [{ type: "bar", x: neurons.map((_, at) => at), y: neurons.map((one) => one.count), marker: { color: css("--c" + (run % 7)) },
      text: neurons.map((one) => (/^\d+$/.test(one.name) ? "layer " : "") + plain(one.name)), textposition: "none", hovertemplate: "<b>%{text}</b><br>%{y:,} neurons<extra></extra>" }],
    layout(node, { height: 240, bargap: 0.25, xaxis: axis("Layer", { showgrid: false, tickvals: shown, ticktext: shown.map((at) => neurons[at].name.replace(" the layers", "")) }),
      yaxis: axis("", { rangemode: "tozero", nticks: 5, tickformat: ",d" }) }), CONFIG);
  }

  Object.assign(kinds, { abstention, boxDistance, boxVolume, chosen });
})();
