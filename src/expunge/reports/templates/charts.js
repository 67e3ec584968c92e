"use strict";
// The page's charts. Colours come from the page's style, so that light, dark and print need no second list.
const expungeCharts = (function () {
  const SYMBOLS = ["circle", "triangle-up", "star-diamond", "cross", "triangle-down", "hexagon", "pentagon"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid"];
  const NAMES = { forget_probability: "Forget probability", retain_probability: "Retain probability", model_utility: "Model utility" };
  const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false, showTips: false, doubleClick: "reset" };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (value) => value === null || value === undefined ? "" : Number(value.toPrecision(3)).toString();

  const three = (value) => value.toPrecision(3);

  function look(part) {
    if (part.kind === "target") return { color: css("--soft"), symbol: "square", dash: "dot" };
    if (part.kind === "retrained") return { color: css("--ink"), symbol: "diamond-open", dash: "dash" };
    return { color: css("--c" + (part.run % 7)), symbol: SYMBOLS[part.run % 7], dash: DASHES[part.run % 7] };
  }

  function axis(title, more) {
    return Object.assign({
      title: { text: title, standoff: 10, font: { size: 13, color: css("--soft") } },
      gridcolor: css("--rule"), linecolor: css("--rule"), zeroline: false, tickcolor: css("--rule"),
      tickfont: { size: 12, color: css("--soft") }, automargin: true, fixedrange: true,
    }, more);
  }

  function layout(node, more) {
    return Object.assign({
      width: node.clientWidth, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("--ink") },
      margin: { l: 8, r: 12, t: 12, b: 8 }, showlegend: false, hovermode: "closest", dragmode: false,
      hoverlabel: { bgcolor: css("--sheet"), bordercolor: css("--soft"), font: { color: css("--ink"), size: 13 }, align: "left" },
    }, more);
  }

  // Names beside their points: pushed apart where they would lie on each other, with a thin line back.
  function labels(points, width, height, range) {
    const pixels = points.map((p) => ({
      p, x: (p.x - range.x[0]) / (range.x[1] - range.x[0]) * width, y: height - (p.y - range.y[0]) / (range.y[1] - range.y[0]) * height,
      w: p.name.length * 7.4 + 14, right: p.right * width / (range.x[1] - range.x[0]), left: p.left * width / (range.x[1] - range.x[0]),
    })).sort((a, b) => a.y - b.y);
    const placed = [];
    for (const item of pixels) {
      item.side = item.x + item.right + 12 + item.w > width ? -1 : 1;
      const left = () => item.side > 0 ? item.x + 10 : item.x - 10 - item.w;
      item.at = item.y;
      for (const other of placed) {
        const apart = left() > other.left + other.w || left() + item.w < other.left;
        if (!apart && item.at - other.at < 18) item.at = other.at + 18;
      }
      placed.push({ left: left(), w: item.w, at: item.at });
    }
    return pixels.map((item) => ({
      x: item.p.x, y: item.p.y, text: plain(item.p.name), font: { color: item.p.color, size: 13 },
      showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: Math.abs(item.at - item.y) > 2 ? item.p.color : "rgba(0,0,0,0)",
      ax: item.side * (13 + (item.side > 0 ? item.right : item.left)), ay: item.at - item.y, xanchor: item.side > 0 ? "left" : "right", yanchor: "middle", standoff: 6,
    }));
  }

  function spread(entry) {
    if (!entry) return [0, 0];
    if (entry.min !== undefined && entry.max !== undefined) return [entry.max - entry.value, entry.value - entry.min];
    return [entry.stderr || 0, entry.stderr || 0];
  }

  function tradeoff(node, data) {
    const radio = document.querySelector('input[name="kept"]:checked');
    const points = data.groups[node.dataset.group].points;
    const key = radio ? radio.value : points.some((p) => "retain_probability" in p.metrics) ? "retain_probability" : "model_utility";
    const here = points.filter((p) => p.metrics.forget_probability && p.metrics[key]);
    const range = { x: [-0.03, 1.03], y: [-0.04, 1.06] };
    const traces = [];
    const named = [];
    for (const part of here) {
      const x = part.metrics.forget_probability, y = part.metrics[key], style = look(part);
      if (part.seeds.length) {
        const seeds = part.seeds.filter((s) => s.forget_probability && s[key]);
        traces.push({ x: seeds.map((s) => s.forget_probability.value), y: seeds.map((s) => s[key].value), mode: "markers",
          marker: { color: style.color, size: 6, opacity: 0.4 }, hoverinfo: "skip" });
      }
      const [xu, xd] = spread(x), [yu, yd] = spread(y);
      const error = (up, down) => ({ type: "data", array: [up], arrayminus: [down], symmetric: false, color: style.color, thickness: 1.25, width: 0 });
      traces.push({
        x: [x.value], y: [y.value], mode: "markers", name: plain(part.name),
        marker: { color: style.color, symbol: style.symbol, size: part.kind === "retrained" ? 14 : 12, line: { width: part.kind === "retrained" ? 2.5 : 0 } },
        error_x: error(xu, xd), error_y: error(yu, yd),
        hovertemplate: `<b>${plain(part.name)}</b><br>forget ${short(x.value)}${x.n ? ", n = " + x.n : ""}<br>kept ${short(y.value)}${y.n ? ", n = " + y.n : ""}<extra></extra>`,
      });
      named.push({ name: part.name, x: x.value, y: y.value, color: style.color, right: xu, left: xd });
    }
    const narrow = node.clientWidth < 560;
    const height = narrow ? 400 : 480;
    const ideal = { x: 0, y: 1, text: "ideal", xanchor: "left", yanchor: "bottom", showarrow: false, xshift: -4, yshift: 4, font: { size: 12, color: css("--soft") } };
    Plotly.react(node, traces, layout(node, {
      height, margin: { l: 8, r: 12, t: 8, b: 8 },
      xaxis: axis("Forget probability", { range: range.x, tickvals: [0, 0.25, 0.5, 0.75, 1], showline: false }),
      yaxis: axis(NAMES[key], { range: range.y, tickvals: [0, 0.25, 0.5, 0.75, 1], showline: false }),
      shapes: [{ type: "path", path: "M 0 1 L 0.12 1 Q 0.12 0.88 0 0.88 Z", fillcolor: css("--rule"), opacity: 0.55, line: { width: 0 }, layer: "below" }],
      annotations: labels(named, node.clientWidth - 76, height - 58, range).concat([ideal]),
    }), CONFIG);
  }

  const median = (values) => {
    const sorted = values.slice().sort((a, b) => a - b), half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  };

  function logTicks(values) {
    const low = Math.floor(Math.log10(Math.min(...values, 1))), high = Math.ceil(Math.log10(Math.max(...values, 1)));
    const step = Math.max(1, Math.ceil((high - low) / 8)), at = [];
    for (let e = low; e <= high; e += step) at.push(e);
    const text = at.map((e) => Math.abs(e) <= 3 ? String(Number((10 ** e).toPrecision(1))) : `10<sup>${e}</sup>`);
    return { tickvals: at.map((e) => 10 ** e), ticktext: text };
  }

  function truth(node, data) {
    const parts = data.groups[node.dataset.group].truth;
    const cumulative = document.querySelector('input[name="truth-view"]:checked').value === "cumulative";
    const ticks = logTicks(parts.flatMap((p) => p.values));
    const one = { type: "line", xref: "x", yref: "paper", x0: 1, x1: 1, y0: 0, y1: 1, line: { color: css("--soft"), width: 1 }, layer: "below" };
    const narrow = node.clientWidth < 560;
    const title = narrow ? "Truth ratio (log scale)" : "← prefers the right answer      truth ratio      prefers wrong answers →";
    const xaxis = axis(title, Object.assign({ type: "log" }, ticks));
    if (cumulative) {
      const traces = parts.map((part) => {
        const x = part.values.slice().sort((a, b) => a - b), style = look(part);
        return { x, y: x.map((_, i) => (i + 1) / x.length), mode: "lines", name: plain(part.name),
          line: { shape: "hv", color: style.color, dash: style.dash, width: part.kind === "retrained" ? 3 : 2 },
          hovertemplate: `<b>${plain(part.name)}</b><br>%{y:.0%} of rows at or below %{x:.3~g}<extra></extra>` };
      });
      Plotly.react(node, traces, layout(node, { height: 400, showlegend: true, shapes: [one], xaxis,
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 13 } },
        yaxis: axis("Share of forget rows", { range: [0, 1.02], tickformat: ".0%" }) }), CONFIG);
      return;
    }
    const rows = parts.slice().reverse();
    const traces = rows.map((part, row) => {
      const style = look(part);
      // Spread by the golden ratio: even and the same on every drawing.
      return { x: part.values, y: part.values.map((_, i) => row + ((i * 0.618034) % 1 - 0.5) * 0.46), mode: "markers",
        marker: { color: style.color, symbol: style.symbol, size: 7, opacity: 0.55 },
        hovertemplate: `<b>${plain(part.name)}</b><br>truth ratio %{x:.3~g}<extra></extra>` };
    });
    const bars = rows.map((part, row) => ({ type: "line", xref: "x", yref: "y", x0: median(part.values), x1: median(part.values),
      y0: row - 0.36, y1: row + 0.36, line: { color: css("--ink"), width: 3 } }));
    const reference = rows.findIndex((part) => part.kind === "retrained");
    const guide = reference < 0 ? [] : [{ type: "line", xref: "x", yref: "paper", x0: median(rows[reference].values), x1: median(rows[reference].values),
      y0: 0, y1: 1, line: { color: css("--ink"), width: 1, dash: "dash" }, layer: "below" }];
    const names = rows.map((part, row) => narrow
      ? { x: 0, xref: "paper", xanchor: "left", y: row + 0.42, yanchor: "middle", text: `${plain(part.name)} · median ${three(median(part.values))}`, showarrow: false, font: { size: 12 }, bgcolor: css("--paper") }
      : null).filter(Boolean);
    Plotly.react(node, traces, layout(node, { height: rows.length * (narrow ? 82 : 72) + 70, shapes: [one, ...guide, ...bars], annotations: names, xaxis,
      yaxis: axis("", { range: [-0.55, rows.length - 0.35], tickvals: rows.map((_, i) => i), ticktext: rows.map((p) => `${plain(p.name)}<br><span style="font-size:12px;fill:${css("--soft")}">median ${three(median(p.values))}</span>`),
        showticklabels: !narrow, tickfont: { size: 13, color: css("--ink") }, showgrid: false, ticks: "" }) }), CONFIG);
  }

  function scored(node, data) {
    const key = node.dataset.metric, traces = [], shapes = [], notes = [];
    for (const { run, series } of data.training) {
      const style = look({ kind: "erased", run });
      series.forEach((one, at) => traces.push({
        x: one.scored, y: one[key], mode: "lines+markers", name: plain(data.runs[run].name), legendgroup: String(run), showlegend: at === 0,
        opacity: at === 0 ? 1 : 0.35, line: { color: style.color, width: 2 }, marker: { symbol: style.symbol, size: 7 },
        hovertemplate: `<b>${plain(data.runs[run].name)}</b><br>step %{x}: %{y:.3~g}<extra></extra>`,
      }));
    }
    if (data.groups.length === 1) {
      for (const part of data.groups[0].points.filter((p) => p.kind !== "erased" && p.metrics[key])) {
        const style = look(part), y = part.metrics[key].value;
        shapes.push({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: y, y1: y, line: { color: style.color, width: 1.25, dash: style.dash } });
        notes.push({ x: 0, xref: "paper", xanchor: "left", y, yanchor: part.kind === "target" || y < 0.12 ? "bottom" : "top", text: part.name.toLowerCase(), showarrow: false, font: { size: 12, color: css("--soft") } });
      }
    }
    Plotly.react(node, traces, layout(node, { height: 340, shapes, annotations: notes, showlegend: true,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, xaxis: axis("Step", { rangemode: "tozero" }),
      yaxis: axis("", { range: [-0.04, 1.06], tickvals: [0, 0.25, 0.5, 0.75, 1] }) }), CONFIG);
  }

  function loss(node, data) {
    const { run, losses, series } = data.training[node.dataset.index];
    const known = { loss: ["all", "solid", css("--c" + (run % 7))], forget_loss: ["forget", "dash", css("--ink")], retain_loss: ["retain", "dot", css("--soft")] };
    const others = losses.filter((key) => !(key in known));
    overSteps(node, series, "losses", losses.map((key) => {
      const at = others.indexOf(key);
      const [name, dash, color] = known[key] || [key.replace(/_loss$/, "").replace(/_/g, " "), DASHES[(at + 3) % 7], css("--c" + ((run + at + 2) % 7))];
      return { key, name, dash, color, width: key === "loss" ? 2.25 : 1.5 };
    }));
  }

  function state(node, data) {
    const { run, state: keys, series } = data.training[node.dataset.index];
    overSteps(node, series, "state", keys.map((key, at) => ({ key, name: key.replace(/_/g, " "), dash: DASHES[at % 7], color: css("--c" + ((run + at) % 7)), width: 1.5 })));
  }

  // One line a kind and seed; the first seed's stand out.
  function overSteps(node, series, part, kinds) {
    const traces = [];
    series.forEach((one, at) => kinds.forEach(({ key, name, dash, color, width }) => {
      if (!one[part][key].some((value) => value !== null)) return;
      traces.push({ x: one.steps, y: one[part][key], mode: "lines", name: plain(name), legendgroup: key, showlegend: at === 0, opacity: at === 0 ? 1 : 0.35,
        line: { color, dash, width }, hovertemplate: `${plain(name)}, step %{x}: %{y:.3~g}<extra></extra>` });
    }));
    Plotly.react(node, traces, layout(node, { height: 240, showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } },
      xaxis: axis("Step", { rangemode: "tozero", nticks: 6 }), yaxis: axis("", { nticks: 7 }) }), CONFIG);
  }

  const kinds = { tradeoff, truth, scored, loss, state };
  return { draw: (node, data) => kinds[node.dataset.chart](node, data), kinds, axis, layout, look, css, plain, short, CONFIG, SYMBOLS, DASHES };
})();
