/* The answers of a result page: filter, search, sort, some at a time. Texts of runs reach the page as text nodes and attributes
   alone, never as HTML. */
(function () {
  "use strict";
  var PER_PAGE = 20;
  var SVG = "http://www.w3.org/2000/svg";

  function make(tag, className, text) {
    var found = document.createElement(tag);
    if (className) found.className = className;
    if (text !== undefined && text !== null) found.textContent = text;
    return found;
  }

  function add(parent) {
    for (var i = 1; i < arguments.length; i++) if (arguments[i]) parent.appendChild(arguments[i]);
    return parent;
  }

  function svg(tag, attributes) {
    var found = document.createElementNS(SVG, tag);
    for (var name in attributes) found.setAttribute(name, attributes[name]);
    return found;
  }

  function number(value, digits) {
    return value === null || value === undefined ? "–" : String(Number(value.toFixed(digits === undefined ? 3 : digits)));
  }

  function count(n, one, several) {
    return n.toLocaleString("en") + " " + (n === 1 ? one : several);
  }

  function read(id) {
    return JSON.parse(document.getElementById(id).textContent);
  }

  /* ---- light and dark */

  var theme = document.getElementById("theme");
  var system = window.matchMedia("(prefers-color-scheme: dark)");
  function isDark() {
    return (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  }
  function showTheme() {
    theme.setAttribute("aria-pressed", String(isDark()));
  }
  theme.hidden = false;
  theme.addEventListener("click", function () {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  /* ---- answers */

  var fold = document.getElementById("answers");
  if (!fold) return;
  var here = document.getElementById("answers-here");
  var data, images, rows, shown, page, parts;
  var state = { outcome: -1, task: -1, sort: "worst", words: "" };

  var less = function (a, b, last) {
    /* null stands at the end, whatever the direction */
    if (a === b) return 0;
    if (a === null || a === undefined) return 1;
    if (b === null || b === undefined) return -1;
    return last * (a - b);
  };
  var unparsed;
  var ORDERS = {
    worst: ["worst first", function (a, b) { return less(a.v, b.v, 1) || (b.o === unparsed) - (a.o === unparsed) || less(a.u, b.u, 1); }],
    best: ["best first", function (a, b) { return less(a.v, b.v, -1) || less(a.u, b.u, -1); }],
    iou: ["lowest IoU first", function (a, b) { return less(a.u, b.u, 1) || less(a.v, b.v, 1); }],
    long: ["longest first", function (a, b) { return less(length(a), length(b), -1); }],
    data: ["in the order of the data", function () { return 0; }],
  };

  function length(row) {
    return row.n === null ? row.c.length / 4 : row.n;
  }

  function start() {
    if (data) return;
    data = read("answers-data");
    images = read("images-data");
    unparsed = data.outcomes.indexOf("unparsed");
    data.rows.forEach(function (row, place) { row.place = place; });
    parts = {};
    drawTools();
    update();
  }

  function drawTools() {
    var tools = add(make("div", "tools"));
    tools.setAttribute("role", "group");
    tools.setAttribute("aria-label", "which answers");
    var every = button("all " + data.rows.length.toLocaleString("en"), -1);
    parts.outcomes = [every];
    data.outcomes.forEach(function (name, place) {
      var n = data.rows.filter(function (row) { return row.o === place; }).length;
      if (n) parts.outcomes.push(button(name + " " + n.toLocaleString("en"), place));
    });
    parts.outcomes.forEach(function (one) { tools.appendChild(one); });

    var more = make("div", "tools");
    var search = make("input");
    search.type = "search";
    search.id = "search";
    search.autocomplete = "off";
    var waiting;
    search.addEventListener("input", function () {
      clearTimeout(waiting);
      waiting = setTimeout(function () { state.words = search.value.toLowerCase(); update(); }, 120);
    });
    add(more, labelled("search", search, "search"));
    var orders = make("select");
    orders.id = "sort";
    var boxes = data.rows.some(function (row) { return row.u !== undefined; });
    Object.keys(ORDERS).forEach(function (name) {
      if (name === "iou" && !boxes) return;
      var option = make("option", "", ORDERS[name][0]);
      option.value = name;
      orders.appendChild(option);
    });
    orders.addEventListener("change", function () { state.sort = orders.value; update(); });
    add(more, labelled("order", orders));
    if (data.tasks.length > 1) {
      var tasks = make("select");
      tasks.id = "task";
      [{ name: "all" }].concat(data.tasks).forEach(function (task, place) {
        var option = make("option", "", task.name);
        option.value = String(place - 1);
        tasks.appendChild(option);
      });
      tasks.addEventListener("change", function () { state.task = Number(tasks.value); update(); });
      add(more, labelled("task", tasks));
    }
    parts.status = make("p", "small");
    parts.status.id = "status";
    parts.status.setAttribute("role", "status");
    parts.legend = boxes ? legend() : null;
    parts.list = make("div");
    parts.list.id = "list";
    parts.above = pager();
    parts.below = pager();
    add(here, tools, more, prompts(), parts.legend, parts.status, parts.above, parts.list, parts.below);
  }

  function button(text, outcome) {
    var found = make("button", "", text);
    found.type = "button";
    found.setAttribute("aria-pressed", String(outcome === state.outcome));
    found.addEventListener("click", function () {
      state.outcome = outcome;
      parts.outcomes.forEach(function (one) { one.setAttribute("aria-pressed", String(one === found)); });
      update();
    });
    return found;
  }

  function labelled(text, field, className) {
    return add(make("label", className || ""), make("span", "", text), field);
  }

  function legend() {
    return add(
      make("p", "small legend"),
      add(make("span"), make("span", "swatch"), document.createTextNode("ground truth (T1, T2, …)")),
      add(make("span"), make("span", "swatch pred"), document.createTextNode("prediction (P1, P2, …)"))
    );
  }

  function prompts() {
    /* What all prompts of a task share, once. */
    var found = make("div");
    data.tasks.forEach(function (task) {
      if (!task.start && !task.end && !task.system) return;
      var box = make("details", "shared");
      var what = task.same ? "the prompt of every answer" : "what every prompt shares (… stands for what is shown with each answer)";
      add(box, make("summary", "", (data.tasks.length > 1 ? task.name + ": " : "") + what));
      if (task.system) add(box, make("p", "what", "system"), make("pre", "", task.system));
      var text = task.same ? task.start : [task.start, "…", task.end].filter(Boolean).join("\n");
      add(box, make("pre", "", text));
      found.appendChild(box);
    });
    if (found.firstChild && data.tasks.length === 1) found.firstChild.open = true;
    return found;
  }

  function pager() {
    var found = make("nav", "pager");
    found.setAttribute("aria-label", "pages of answers");
    var back = make("button", "back", "previous");
    var on = make("button", "on", "next");
    back.type = on.type = "button";
    back.addEventListener("click", function () { turn(-1); });
    on.addEventListener("click", function () { turn(1); });
    return add(found, back, make("span", "small"), on);
  }

  function turn(by) {
    page += by;
    draw();
    parts.status.scrollIntoView();
  }

  function text(row) {
    if (row.text === undefined) row.text = [row.i, row.q, row.g, row.a, row.c].join("\n").toLowerCase();
    return row.text;
  }

  function update() {
    shown = data.rows.filter(function (row) {
      return (state.outcome < 0 || row.o === state.outcome) && (state.task < 0 || row.t === state.task) &&
        (!state.words || text(row).indexOf(state.words) >= 0);
    });
    var order = ORDERS[state.sort][1];
    shown.sort(function (a, b) { return order(a, b) || a.place - b.place; });
    page = 0;
    draw();
  }

  function draw() {
    var first = page * PER_PAGE;
    var last = Math.min(shown.length, first + PER_PAGE);
    parts.list.textContent = "";
    for (var i = first; i < last; i++) parts.list.appendChild(card(shown[i]));
    var all = data.rows.length;
    var which = shown.length === all ? count(all, "answer", "answers") : shown.length.toLocaleString("en") + " of " + count(all, "answer", "answers");
    parts.status.textContent = which + ", " + ORDERS[state.sort][0];
    [parts.above, parts.below].forEach(function (nav) {
      nav.hidden = shown.length <= PER_PAGE;
      nav.children[0].disabled = page === 0;
      nav.children[1].textContent = (first + 1).toLocaleString("en") + " to " + last.toLocaleString("en");
      nav.children[2].disabled = last === shown.length;
    });
  }

  /* ---- one answer */

  function card(row) {
    var found = make("article", "answer");
    var pictures = drawPictures(row);
    if (!pictures) found.className += " no-image";
    var side = make("div");
    var line = make("p", "line");
    var outcome = data.outcomes[row.o];
    add(line, make("span", "badge bg-" + outcome, outcome));
    if (row.v !== null) add(line, make("b", "value", number(row.v)));
    if (data.tasks.length > 1) add(line, make("span", "", data.tasks[row.t].name));
    if (row.u !== undefined && row.u !== null) add(line, make("span", "iou", "IoU " + number(row.u)));
    add(line, make("span", "small", row.n === null ? "tokens –" : count(row.n, "token", "tokens")));
    if (row.x) add(line, make("span", "small", "cut off at the token limit"));
    add(line, make("span", "id", row.i));
    add(side, line);
    if (row.q) add(side, make("pre", "question", row.q));
    if (!pictures && row.e) add(side, make("p", "what", row.e));
    add(side, make("p", "what", "ground truth"), make("pre", "truth", row.g));
    add(side, make("p", "what", "answer"), make("pre", "given", row.a || "(none)"));
    add(side, boxTable(row));
    add(side, folded("completion", make("pre", "tall completion", row.c)));
    if (row.s.length > 1) {
      add(side, folded("scores", make("pre", "", row.s.map(function (one) { return one[0] + "  " + number(one[1], 4); }).join("\n"))));
    }
    return add(found, pictures, side);
  }

  function folded(title, content) {
    return add(make("details"), make("summary", "", title), content);
  }

  function drawPictures(row) {
    if (!row.p || !row.p.length) return row.e ? add(make("div"), make("p", "what", row.e)) : null;
    var found = make("div", "pictures");
    row.p.forEach(function (place, at) {
      if (place === null) {
        add(found, make("p", "what", row.e || "this image is not in the file"));
        return;
      }
      var picture = images[place];
      var frame = make("div", "frame");
      var img = make("img");
      img.loading = "lazy";
      img.decoding = "async";
      img.width = picture[0];
      img.height = picture[1];
      img.alt = described(row, at);
      img.src = "data:image/jpeg;base64," + picture[2];
      add(frame, img);
      if (at === row.w && row.true) frame.appendChild(overlay(row, picture[0], picture[1]));
      found.appendChild(frame);
    });
    if (row.m > row.p.length) add(found, make("p", "small", "and " + count(row.m - row.p.length, "more image", "more images")));
    return found;
  }

  function described(row, at) {
    var what = "image " + (row.p.length > 1 ? at + 1 + " " : "") + "of " + row.i;
    if (at !== row.w || !row.true) return what;
    return what + ", " + count(row.true.length, "true box", "true boxes") + ", " + count(row.pred.length, "predicted box", "predicted boxes");
  }

  function overlay(row, width, height) {
    var found = svg("svg", { viewBox: "0 0 " + width + " " + height, "aria-hidden": "true" });
    var few = row.true.length + row.pred.length <= 8;
    [["true", "T"], ["pred", "P"]].forEach(function (pair) {
      row[pair[0]].forEach(function (box, place) {
        if (box[0] === null) return;
        var x = box[0] * width / 1000, y = box[1] * height / 1000;
        var w = Math.max(0, (box[2] - box[0]) * width / 1000), h = Math.max(0, (box[3] - box[1]) * height / 1000);
        var at = { x: x, y: y, width: w, height: h };
        found.appendChild(svg("rect", Object.assign({ "class": "under" }, at)));
        found.appendChild(svg("rect", Object.assign({ "class": pair[0] }, at)));
        var label = pair[1] + (place + 1) + (few && box[4] ? " " + box[4].slice(0, 24) : "");
        var long = 7 * label.length;
        var words = svg("text", {
          "class": pair[0],
          x: Math.max(2, Math.min(x + 2, width - long)),
          y: pair[0] === "true" ? Math.max(12, y - 4) : Math.min(height - 4, Math.max(12, y + h + 13)),
        });
        words.textContent = label;
        found.appendChild(words);
      });
    });
    return found;
  }

  function boxTable(row) {
    if (!row.true) return null;
    if (row.unread) return make("p", "what", "no boxes could be read; " + count(row.true.length, "true box", "true boxes"));
    if (!row.true.length && !row.pred.length) return make("p", "what", "no boxes, and none predicted");
    var table = make("table", "boxes");
    var head = make("tr");
    ["prediction", "ground truth", "IoU"].forEach(function (word) {
      var cell = make("th", "", word);
      cell.scope = "col";
      head.appendChild(cell);
    });
    table.appendChild(head);
    var paired = {}, found = {};
    row.pairs.forEach(function (pair) { paired[pair[0]] = pair; found[pair[1]] = true; });
    row.pred.forEach(function (box, place) {
      var pair = paired[place];
      table.appendChild(boxRow(name("P", place, box), pair ? name("T", pair[1], row.true[pair[1]]) : "–", pair ? pair[2] : 0));
    });
    row.true.forEach(function (box, place) {
      if (!found[place]) table.appendChild(boxRow("–", name("T", place, box), 0));
    });
    var holder = add(make("div", "wide"), table);
    holder.tabIndex = 0;
    if (row.more) add(holder, make("p", "small", "and " + count(row.more, "more box", "more boxes")));
    return holder;
  }

  function name(letter, place, box) {
    return letter + (place + 1) + (box[4] ? " " + box[4] : "") + (box[5] === null ? "" : " (" + number(box[5], 2) + ")");
  }

  function boxRow(predicted, truth, overlap) {
    var found = make("tr");
    return add(found, make("td", "", predicted), make("td", "", truth), make("td", "n", number(overlap, 2)));
  }

  fold.addEventListener("toggle", function () { if (fold.open) start(); });
  if (location.hash === "#answers") fold.open = true;
  if (fold.open) start();
})();
