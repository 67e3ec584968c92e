"use strict";
// The charts of a probe's page. Orange is where forget is higher, blue where retain is; roles have the other colours.
(function () {
  const { kinds, axis, layout, css, plain, short, CONFIG, SYMBOLS, DASHES } = expungeCharts;
  const signed = (value) => value === null ? "none" : (value > 0 ? "+" : "") + short(value);
  const legend = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } };
  const colour = (at) => css("--c" + (2 + at % 5));

  // Layers by their place in the list, so that those that were left out take no room.
  function layers(role, most) {
    const names = role.layers.map((one) => one.name), step = Math.max(1, Math.ceil(names.length / most));
    const shown = names.map((_, at) => at).filter((at) => at % step === 0);
    return { tickvals: shown, ticktext: shown.map((at) => names[at]) };
  }

  function byLayer(node, data, parts, more) {
    const longest = data.roles.reduce((a, b) => b.layers.length > a.layers.length ? b : a);
    const place = new Map(longest.layers.map((one, at) => [one.name, at]));
    const traces = data.roles.flatMap((role, at) => parts.map(({ key, name, dash, text }) => ({
      x: role.layers.map((one, i) => place.has(one.name) ? place.get(one.name) : i), y: role.layers.map((one) => one[key] === null ? null : Math.abs(one[key])),
      mode: "lines+markers", name: plain([data.roles.length > 1 ? role.role : "", name].filter(Boolean).join(", ")),
      line: { color: colour(at), width: 2, dash: dash || DASHES[at % 7] }, marker: { symbol: SYMBOLS[at % 7], size: 7 },
      customdata: role.layers.map((one) => text(one)), hovertemplate: `<b>${plain(role.role)}</b><br>%{customdata}<extra></extra>`,
    })));
    Plotly.react(node, traces, layout(node, Object.assign({
      height: 300, showlegend: traces.length > 1, legend,
      xaxis: axis("Layer", Object.assign(layers(longest, 12), { range: [-0.4, longest.layers.length - 0.6], showgrid: false })),
    }, more)), CONFIG);
  }

  function share(node, data) {
    const known = data.roles.map((role) => role.by_chance).filter((value) => value !== null), chance = Math.max(...known);
    const highest = Math.max(...data.roles.flatMap((role) => role.layers.map((one) => one.share)), 0.01);
    const words = { x: 1, xref: "paper", xanchor: "right", y: chance, yanchor: "bottom", text: "by chance", showarrow: false, font: { size: 12, color: css("--soft") } };
    const line = { type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: chance, y1: chance, line: { color: css("--soft"), width: 1.25, dash: "dash" } };
    byLayer(node, data, [{ key: "share", name: "", text: (one) => `layer ${plain(one.name)}: ${short(100 * one.share)}% of ${one.neurons} neurons` }], {
      shapes: known.length ? [line] : [], annotations: known.length && chance < 2 * highest ? [words] : [],
      yaxis: axis("", { range: [-0.04 * highest, 1.1 * highest], tickformat: highest < 0.03 ? ".1%" : ".0%", nticks: 6 }),
    });
  }

  function distance(node, data) {
    const said = (one) => `layer ${plain(one.name)}: largest ${signed(one.largest)}, median ${one.median === null ? "none" : short(one.median)}`;
    const alone = data.roles.length === 1, median = { key: "median", name: "median", dash: "dot", text: said };
    byLayer(node, data, [{ key: "largest", name: alone ? "largest" : "", text: said }, ...(alone ? [median] : [])],
      { yaxis: axis("", { rangemode: "tozero", nticks: 6 }) });
  }

  function top(node, data) {
    byLayer(node, data, [{ key: "top", name: "", text: (one) => `layer ${plain(one.name)}: ${one.top} of ${one.neurons} neurons` }],
      { yaxis: axis("", { rangemode: "tozero", nticks: 6, tickformat: "d" }) });
  }

  function heat(node, data) {
    const role = data.roles[node.dataset.index], rows = role.layers;
    const wide = Math.max(...rows.map((one) => one.furthest.length));
    const largest = Math.max(...rows.flatMap((one) => one.furthest.map((neuron) => Math.abs(neuron.standardised))), 1e-9);
    const fill = (one, of) => Array.from({ length: wide }, (_, at) => at < one.furthest.length ? of(one.furthest[at]) : null);
    const narrow = node.clientWidth < 560;
    const scale = [[0, css("--c0")], [0.5, css("--sheet")], [1, css("--c1")]];
    Plotly.react(node, [{
      type: "heatmap", z: rows.map((one) => fill(one, (neuron) => neuron.standardised)), x: Array.from({ length: wide }, (_, at) => at + 1), y: rows.map((_, at) => at),
      text: rows.map((one) => fill(one, (neuron) => `${plain(neuron.name)}: ${signed(neuron.standardised)}`)), hovertemplate: "%{text}<extra></extra>",
      colorscale: scale, zmin: -largest, zmax: largest, xgap: 1, ygap: 1, hoverongaps: false,
      colorbar: { orientation: narrow ? "h" : "v", thickness: 10, outlinewidth: 0, len: 1, x: narrow ? 0.5 : 1.02, y: narrow ? 1.02 : 0.5, yanchor: narrow ? "bottom" : "middle",
        tickfont: { size: 12, color: css("--soft") }, nticks: 5, lenmode: "fraction", tickformat: ".2~g" },
    }], layout(node, {
      height: Math.max(240, rows.length * (rows.length > 24 ? 14 : 26) + (narrow ? 110 : 70)), margin: { l: 8, r: narrow ? 12 : 70, t: 12, b: 8 },
      xaxis: axis("Neurons of the layer, the furthest apart first", { showgrid: false, ticks: "", dtick: narrow ? 5 : 1, tick0: narrow ? 5 : 1 }),
      yaxis: axis("Layer", Object.assign(layers(role, 40), { autorange: "reversed", showgrid: false, ticks: "" })),
    }), CONFIG);
  }

  const chosen = () => {
    const radio = document.querySelector('input[name="ranked"]:checked');
    return radio ? radio.value : "furthest";
  };

  // The normal density of each side's mean and deviation; a side that never varies is a line.
  function density(node, data) {
    const neuron = data.roles[node.dataset.role][chosen()][node.dataset.index];
    const figure = node.parentElement;
    figure.hidden = !neuron;
    if (!neuron) return;
    figure.querySelector("figcaption").textContent = neuron.name;
    figure.querySelector(".meta").textContent = `difference ${signed(neuron.signed)}, standardised ${signed(neuron.standardised)}`;
    const sides = [["forget", "--c1"], ["retain", "--c0"]].map(([name, tone]) => ({ name, color: css(tone), mean: neuron[name].mean, deviation: neuron[name].deviation }));
    const spread = Math.max(...sides.map((side) => side.deviation)) || Math.abs(sides[0].mean - sides[1].mean) || 1;
    const low = Math.min(...sides.map((side) => side.mean - 3.5 * (side.deviation || spread / 4))), high = Math.max(...sides.map((side) => side.mean + 3.5 * (side.deviation || spread / 4)));
    const peaks = sides.filter((side) => side.deviation > 0).map((side) => 1 / (side.deviation * Math.sqrt(2 * Math.PI)));
    const ceiling = peaks.length ? 1.08 * Math.min(Math.max(...peaks), 6 * Math.min(...peaks)) : 1;
    const traces = [], shapes = [];
    for (const side of sides) {
      const dash = side.name === "retain" ? "dash" : "solid";
      if (!(side.deviation > 0)) {
        shapes.push({ type: "line", x0: side.mean, x1: side.mean, yref: "paper", y0: 0, y1: 1, line: { color: side.color, width: 2, dash } });
        continue;
      }
      const x = Array.from({ length: 161 }, (_, at) => low + (high - low) * at / 160);
      traces.push({ x, y: x.map((value) => Math.exp(-0.5 * ((value - side.mean) / side.deviation) ** 2) / (side.deviation * Math.sqrt(2 * Math.PI))), mode: "lines",
        fill: "tozeroy", fillcolor: side.color + "26", line: { color: side.color, width: 2, dash }, hoverinfo: "skip" });
    }
    if (!traces.length) traces.push({ x: [low, high], y: [0, 0], mode: "lines", line: { width: 0 }, hoverinfo: "skip" });
    Plotly.react(node, traces, layout(node, { height: 240, shapes,
      xaxis: axis("Activation", { range: [low, high], nticks: 5 }), yaxis: axis("", { range: [0, ceiling], showticklabels: false, showgrid: false, ticks: "" }) }), CONFIG);
  }

  Object.assign(kinds, { share, distance, top, heat, density });
})();
