"use strict";
// The charts of audits: scores over steps, layers or ways of asking, and the recovery of knowledge by layer and component.
(function () {
  const { kinds, axis, layout, look, css, plain, short, CONFIG, SYMBOLS, DASHES } = expungeCharts;
  const legend = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 }, itemclick: false, itemdoubleclick: false };
  const MODELS = ["target", "erased", "retrained"];
  const CELL = 38; // pixels that a cell takes to hold its number

  function style(name, run, at) {
    if (name === "erased") return { color: css("--c" + (run % 7)), symbol: "circle", dash: "solid" }; // as in the key
    return MODELS.includes(name) ? look({ kind: name, run }) : { color: css("--c" + ((run + at) % 7)), symbol: SYMBOLS[at % 7], dash: DASHES[at % 7] };
  }

  // One trace a model. `at` tells where a point stands on the axis of places.
  function traces(figure, place, upright) {
    return figure.series.map((one, at) => {
      const { color, symbol, dash } = style(one.model, figure.run, at), erased = one.model === "erased";
      const places = one.points.map((point) => place(point[0], at)), values = one.points.map((point) => point[1]);
      const error = { type: "data", array: one.points.map((point) => point[2] || 0), color, thickness: 1.25, width: 0 };
      return {
        ...(upright ? { x: places, y: values, error_y: error } : { x: values, y: places, error_x: error }), name: plain(one.model), cliponaxis: false,
        mode: upright ? "lines+markers" : "markers", line: { color, dash, width: erased ? 2.5 : 1.75 }, marker: { color, symbol, size: erased ? 8 : 7 },
        customdata: one.points.map((point) => [plain(point[0]), short(point[1]) + (point[2] === null ? "" : " ± " + short(point[2]))]),
        hovertemplate: `<b>${plain(one.model)}</b><br>${plain(figure.x)}: %{customdata[0]}<br>${plain(figure.y)} %{customdata[1]}<extra></extra>`,
      };
    });
  }

  const others = (figure) => figure.series.some((one) => !MODELS.includes(one.model)); // the key names the models

  // From 0 where nothing is below, with room for the marks that stand there.
  function values(figure) {
    const points = figure.series.flatMap((one) => one.points), most = Math.max(...points.map((point) => point[1] + (point[2] || 0)));
    return points.every((point) => point[1] >= 0) && most > 0 ? { range: [-0.04 * most, 1.06 * most] } : {};
  }

  function auditCurve(node, data) {
    const figure = data.audits[node.dataset.index];
    const places = Array.from(new Set(figure.series.flatMap((one) => one.points.map((point) => point[0])))).sort((a, b) => a - b);
    const step = Math.max(1, Math.ceil(places.length * 32 / Math.max(1, node.clientWidth - 70))), ticks = places.filter((_, at) => at % step === 0);
    const whole = places.every(Number.isInteger) && places.length < 2 + places[places.length - 1] - places[0] && places.length > 1 && places.every((value, at) => !at || value - places[at - 1] === 1);
    const xaxis = figure.log ? { type: "log", tickvals: ticks, ticktext: ticks.map(short) }
      : whole ? { tickvals: ticks, range: [places[0] - 0.3, places[places.length - 1] + 0.3] } : { nticks: 7, tickformat: "~g" };
    Plotly.react(node, traces(figure, (value) => value, true), layout(node, { height: 270, showlegend: others(figure), legend,
      xaxis: axis(plain(figure.x), { showgrid: false, ...xaxis }), yaxis: axis(plain(figure.y), { nticks: 6, tickformat: "~g", ...values(figure) }) }), CONFIG);
  }

  // A name in lines of at most `most` letters, three lines of it.
  function folded(name, most) {
    const lines = [""];
    for (const word of name.split(/\s+/)) {
      const last = lines[lines.length - 1];
      if (last && last.length + word.length >= most) lines.push(word); else lines[lines.length - 1] = last ? last + " " + word : word;
    }
    return lines.slice(0, 3).map((line) => plain(line.slice(0, most + 6))).join("<br>") + (lines.length > 3 ? " …" : "");
  }

  // Places with names stand below each other, so that their names can be read.
  function auditNamed(node, data) {
    const figure = data.audits[node.dataset.index], names = figure.names, count = figure.series.length;
    const most = node.clientWidth < 340 ? 13 : 18, words = names.map((name) => folded(name.replace(/_/g, " "), most));
    const lines = Math.max(...words.map((text) => text.split("<br>").length));
    Plotly.react(node, traces(figure, (name, at) => names.indexOf(name) + 0.2 * (at - (count - 1) / 2), false), layout(node, {
      height: 76 + names.length * Math.max(34, 17 * lines + 8), showlegend: others(figure), legend,
      xaxis: axis(plain(figure.y), { nticks: 5, tickformat: "~g", ...values(figure) }),
      yaxis: axis("", { tickvals: names.map((_, at) => at), ticktext: words, range: [names.length - 0.45, -0.55], showgrid: false, ticks: "" }) }), CONFIG);
  }

  function auditHeat(node, data) {
    const figure = data.audits[node.dataset.index], { windows, rows } = figure, room = Math.max(1, node.clientWidth - 100);
    const wide = room / windows.length >= CELL, step = Math.max(1, Math.ceil(windows.length * 22 / room));
    const shown = windows.map((_, at) => at).filter((at) => at % step === 0);
    const known = (cell) => cell && cell[0] !== null;
    const said = (cell) => !known(cell) ? "not defined" : short(cell[0]) + (cell[1] === null || cell[2] === null ? "" : `, 95% interval ${short(cell[1])} to ${short(cell[2])}`);
    Plotly.react(node, [{
      type: "heatmap", z: rows.map((row) => row.cells.map((cell) => known(cell) ? cell[0] : null)), zmin: 0, zmax: 1, // below 0 nothing came back either
      colorscale: [[0, css("--faint")], [1, css("--c" + (figure.run % 7))]], showscale: false, xgap: 2, ygap: 2, hoverongaps: false,
      text: rows.map((row) => row.cells.map((cell) => known(cell) ? cell[0].toFixed(2).replace(/^-(0\.00)$/, "$1") : "")), texttemplate: wide ? "%{text}" : "", textfont: { size: 12 },
      customdata: rows.map((row) => row.cells.map((cell, at) => [plain(row.name), windows[at], said(cell)])),
      hovertemplate: "<b>%{customdata[0]}, %{customdata[1]}</b><br>recovered %{customdata[2]}<extra></extra>",
    }], layout(node, { height: 70 + 38 * rows.length,
      xaxis: axis(figure.x, { showgrid: false, ticks: "", tickangle: 0, tickvals: shown, ticktext: shown.map((at) => windows[at].replace(/^layer /, "")) }),
      yaxis: axis("", { showgrid: false, ticks: "", autorange: "reversed", tickvals: rows.map((_, at) => at), ticktext: rows.map((row) => folded(row.name, 18)) }) }), CONFIG);
  }

  Object.assign(kinds, { auditCurve, auditNamed, auditHeat });
})();
