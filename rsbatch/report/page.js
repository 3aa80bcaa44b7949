"use strict";
// Shows the data of this page. Text gets into the document by textContent alone, addresses as they are in the data.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const cards = data.cards;
  const GAP = 12, CAPTION = 88, OVERSCAN = 600, MARGIN = 2;
  document.documentElement.classList.add("js");

  const el = (name, props = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(props)) {
      if (key in made) made[key] = value; else made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  };
  // Storage is refused in some browsers for files: then nothing outlives a reload, and that is all.
  const remembered = (name, value) => {
    try {
      if (value === undefined) return localStorage.getItem(`rsbatch:${data.id}:${name}`);
      localStorage.setItem(`rsbatch:${data.id}:${name}`, value);
      return value;
    } catch { return null; }
  };

  // ---- what is shown: kept in the address, so that a reload or a bookmark shows the same

  const PARTS = ["images", "axes", "problems", "figures"];
  const [asked, query] = location.hash.replace(/^#\/?/, "").split("?");
  const view = new URLSearchParams(query || "");
  let part = PARTS.includes(asked) ? asked : "images";
  const keep = () => {
    const query = view.toString();
    const hash = `#/${part}${query ? `?${query}` : ""}`; // the slash: nothing in the page to scroll to
    try { history.replaceState(null, "", hash); } catch { location.hash = hash; }
  };
  const set = (name, value) => {
    if (value) view.set(name, value); else view.delete(name);
    keep();
  };

  // ---- rejected images: by task and key, with the hash of the image that was looked at

  const nameOf = (card) => `${card.i} ${card.k}`;
  const byName = new Map(cards.map((card) => [nameOf(card), card]));
  const canReject = (card) => card.f && card.e !== undefined && !card.g;
  const rejects = new Map();
  try {
    for (const [name, hash] of JSON.parse(remembered("rejects") || "[]")) {
      const card = byName.get(name);
      if (card && canReject(card) && card.f[0].d === hash) rejects.set(name, hash);
    }
  } catch { /* what another page left there */ }

  const toggleReject = (card) => {
    if (!card || !canReject(card)) return;
    const name = nameOf(card);
    if (!rejects.delete(name)) rejects.set(name, card.f[0].d);
    remembered("rejects", JSON.stringify([...rejects]));
    showRejects();
  };
  const showRejects = () => {
    $("rejects").hidden = !rejects.size;
    $("reject-count").textContent = `${rejects.size} rejected`;
    for (const tile of document.querySelectorAll(".tile")) {
      const rejected = rejects.has(nameOf(cards[tile.dataset.card]));
      tile.classList.toggle("rejected", rejected);
      tile.setAttribute("aria-label", label(cards[tile.dataset.card], rejected));
    }
    if (open) showLarge();
  };
  $("clear").onclick = () => { rejects.clear(); remembered("rejects", "[]"); showRejects(); };
  $("download").onclick = () => {
    const rejected = [...rejects].map(([name, sha256]) => ({ task: byName.get(name).i, key: byName.get(name).k, sha256 }));
    const text = `${JSON.stringify({ rejects: 1, manifest: data.name, rejected }, null, 1)}\n`;
    const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    el("a", { href: address, download: "rejects.json" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  };

  const copy = async (text, button) => {
    try { await navigator.clipboard.writeText(text); } catch {
      const area = el("textarea", { value: text });
      (open ? $("large") : document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button.dataset.copy, button);
  });

  // ---- a tile

  const label = (card, rejected) => `${card.i}, ${card.s}${rejected ? ", rejected" : ""}`;
  const alt = (card) => (card.p || card.i).replace(/\s+/g, " ").slice(0, 200);
  const picture = (file, card) => {
    const image = el("img", { loading: "lazy", decoding: "async", alt: alt(card) });
    // A thumbnail that was left behind: the image itself.
    image.onerror = () => { if (image.getAttribute("src") !== file.h) image.src = file.h; else image.replaceWith(alt(card)); };
    image.src = file.t;
    return image;
  };
  const frame = (card) => {
    const file = (card.f || []).find((one) => one.t);
    return file ? el("span", { className: "frame" }, picture(file, card))
      : el("span", { className: "frame none" }, card.f ? "the file is gone" : card.c || card.s);
  };
  const tile = (index, caption) => {
    const card = cards[index], rejected = rejects.has(nameOf(card));
    const made = el("button", { type: "button", className: `tile ${card.s}${rejected ? " rejected" : ""}` }, frame(card));
    made.dataset.card = index;
    made.setAttribute("aria-label", label(card, rejected));
    if (card.s !== "saved") made.append(el("span", { className: `badge ${card.s}`, textContent: card.s }));
    made.append(caption);
    return made;
  };
  const caption = (card) => el("span", { className: "caption" },
    el("b", {}, el("bdi", { textContent: card.i })),
    el("span", { className: "prompt", dir: "auto", textContent: card.p || "" }),
    el("span", { className: "meta", textContent: [card.z, card.u].filter(Boolean).join(" · ") }));

  // ---- the grid: only what is near the window is in the document

  const grid = $("grid"), count = $("count");
  let found = [], list = [], columns = 1, tileWidth = 200, tileHeight = 200 + CAPTION, drawn = new Map(), current = 0;

  const texts = cards.map((card) => `${card.i}\n${card.p || ""}\n${card.j || ""}\n${card.q || ""}\n${card.r || ""}`.toLowerCase());
  const filter = () => {
    const words = (view.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
    const state = view.get("state"), entry = view.get("entry");
    const axes = [...view].filter(([name, value]) => name.startsWith("x.") && value).map(([name, value]) => [name.slice(2), value]);
    found = [];
    cards.forEach((card, index) => {
      if (state === "rejected" ? !rejects.has(nameOf(card)) : state && card.s !== state) return;
      if (entry && String(card.e) !== entry) return;
      if (axes.some(([name, value]) => (card.x || {})[name] !== value)) return;
      if (words.every((word) => texts[index].includes(word))) found.push(index);
    });
    if (view.get("order") === "new") {
      found.sort((one, other) => (cards[other].t || "").localeCompare(cards[one].t || "") || one - other);
    }
    count.textContent = found.length === cards.length ? "" : `${found.length} of ${cards.length}`;
    current = 0;
    layout();
  };
  const layout = () => {
    const least = Math.min(Number($("tile").value), (grid.clientWidth - GAP) / 2);
    columns = Math.max(1, Math.floor((grid.clientWidth + GAP) / (least + GAP)));
    tileWidth = (grid.clientWidth - GAP * (columns - 1)) / columns;
    tileHeight = tileWidth + CAPTION;
    grid.style.height = `${Math.ceil(found.length / columns) * (tileHeight + GAP)}px`;
    for (const item of drawn.values()) item.remove();
    drawn = new Map();
    draw();
  };
  const draw = () => {
    if (part !== "images") return;
    const top = -grid.getBoundingClientRect().top, row = tileHeight + GAP;
    const first = Math.max(0, Math.floor((top - OVERSCAN) / row)) * columns;
    const last = Math.min(found.length, Math.ceil((top + innerHeight + OVERSCAN) / row) * columns);
    for (const [place, item] of drawn) {
      if ((place < first || place >= last) && !item.contains(document.activeElement)) { item.remove(); drawn.delete(place); }
    }
    const fresh = document.createDocumentFragment();
    for (let place = first; place < last; place += 1) {
      if (drawn.has(place)) continue;
      const item = el("li", { "aria-setsize": found.length, "aria-posinset": place + 1 }, tile(found[place], caption(cards[found[place]])));
      item.firstChild.dataset.place = place;
      item.firstChild.tabIndex = place === current ? 0 : -1;
      item.style.width = `${tileWidth}px`;
      item.style.height = `${tileHeight}px`;
      item.style.transform = `translate(${(place % columns) * (tileWidth + GAP)}px, ${Math.floor(place / columns) * row}px)`;
      drawn.set(place, item);
      fresh.append(item);
    }
    grid.append(fresh);
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
  addEventListener("scroll", soon, { passive: true });
  let laidOut = 0;
  new ResizeObserver(() => {
    if (part === "images" && grid.clientWidth !== laidOut) { laidOut = grid.clientWidth; layout(); }
  }).observe(grid);

  const goTo = (place) => {
    const before = drawn.get(current);
    if (before) before.firstChild.tabIndex = -1;
    current = Math.max(0, Math.min(found.length - 1, place));
    const row = tileHeight + GAP, top = grid.getBoundingClientRect().top + Math.floor(current / columns) * row;
    if (top < MARGIN) scrollBy(0, top - MARGIN - 8);
    else if (top + row > innerHeight) scrollBy(0, top + row - innerHeight + 8);
    draw();
    const item = drawn.get(current);
    if (item) { item.firstChild.tabIndex = 0; item.firstChild.focus({ preventScroll: true }); }
  };
  grid.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -found.length, End: found.length }[event.key];
    if (move === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    goTo(Number(document.activeElement.dataset.place || current) + move);
  });
  document.addEventListener("click", (event) => {
    const clicked = event.target.closest(".tile");
    if (!clicked) return;
    if (clicked.dataset.place) current = Number(clicked.dataset.place);
    list = clicked.dataset.place ? found : [...document.querySelectorAll("#axis-grid .tile")].map((one) => Number(one.dataset.card));
    look(Number(clicked.dataset.card));
  });

  // ---- filters

  const short = (text) => text.replace(/^(.{119}).{2,}$/su, "$1…"); // an axis may hold whole files
  const options = (select, pairs, chosen) => {
    select.replaceChildren(...pairs.map(([value, text]) => el("option", { value, textContent: short(text) })));
    select.value = chosen || "";
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  };
  const chooser = (title, pairs, chosen, changed) => {
    const select = el("select");
    options(select, pairs, chosen);
    select.onchange = () => changed(select.value);
    return el("label", {}, el("span", { textContent: title }), select);
  };
  const axisFilters = () => {
    const entries = view.get("entry") ? [data.entries[view.get("entry")]].filter(Boolean) : data.entries;
    const axes = new Map();
    for (const entry of entries) {
      for (const axis of entry.axes) axes.set(axis.name, [...new Set([...(axes.get(axis.name) || []), ...axis.values])]);
    }
    for (const name of [...view.keys()]) if (name.startsWith("x.") && !axes.has(name.slice(2))) view.delete(name);
    $("axis-filters").replaceChildren(...[...axes].map(([name, values]) => chooser(
      name, [["", "all"], ...values.map((value) => [value, value])], view.get(`x.${name}`),
      (value) => { set(`x.${name}`, value); filter(); })));
  };
  const counts = new Map();
  for (const card of cards) counts.set(card.s, (counts.get(card.s) || 0) + 1);
  const states = data.states.filter((state) => counts.has(state));
  options($("state"), [["", "all"], ...states.map((state) => [state, `${state} (${counts.get(state)})`]), ["rejected", "rejected here"]], view.get("state"));
  options($("entry"), [["", "all"], ...data.entries.map((entry, index) => [String(index), entry.label])], view.get("entry"));
  $("entry").parentElement.hidden = data.entries.length < 2;
  $("order").value = view.get("order") || "";
  $("search").value = view.get("q") || "";
  $("tile").value = remembered("tile") || 200;
  $("more").open = matchMedia("(min-width: 761px)").matches || ["state", "entry", "order"].some((name) => view.has(name));
  $("filters").onsubmit = (event) => event.preventDefault();
  $("search").oninput = (event) => { set("q", event.target.value); filter(); };
  $("state").onchange = (event) => { set("state", event.target.value); filter(); };
  $("order").onchange = (event) => { set("order", event.target.value); filter(); };
  $("entry").onchange = (event) => { set("entry", event.target.value); axisFilters(); keep(); filter(); };
  $("tile").oninput = (event) => { remembered("tile", event.target.value); layout(); };

  // ---- the axis grid

  const withAxes = data.entries.map((entry, index) => [entry, index]).filter(([entry]) => entry.axes.length);
  const showAxes = () => {
    const place = withAxes.findIndex(([, index]) => String(index) === view.get("of"));
    const [entry, index] = withAxes[place < 0 ? 0 : place];
    const names = entry.axes.map((axis) => axis.name);
    const pick = (name, fallback) => (view.get(name) === "-" || names.includes(view.get(name)) ? view.get(name) : fallback);
    const across = pick("columns", names[names.length > 1 ? 1 : 0]);
    const down = pick("rows", names.find((name) => name !== across) || "-");
    const rest = entry.axes.filter((axis) => axis.name !== across && axis.name !== down);
    const redraw = (name) => (value) => { set(name, value); showAxes(); };
    const named = [["-", "–"], ...names.map((name) => [name, name])];
    const size = el("input", { type: "range", min: 60, max: 420, step: 10, value: remembered("cell") || 150 });
    size.oninput = () => { remembered("cell", size.value); $("axis-grid").style.setProperty("--cell", `${size.value}px`); };
    $("axis-grid").style.setProperty("--cell", `${size.value}px`);
    $("axis-form").replaceChildren(
      ...(withAxes.length > 1 ? [chooser("Task entry", withAxes.map(([one, n]) => [String(n), one.label]), String(index), (value) => {
        for (const name of [...view.keys()]) if (name.startsWith("y.") || name === "rows" || name === "columns") view.delete(name);
        set("of", value);
        showAxes();
      })] : []),
      chooser("Rows", named, down, redraw("rows")),
      chooser("Columns", named, across, redraw("columns")),
      ...rest.map((axis) => chooser(axis.name, [["", "all"], ...axis.values.map((value) => [value, value])], view.get(`y.${axis.name}`), redraw(`y.${axis.name}`))),
      el("label", {}, el("span", { textContent: "Size" }), size));
    const cells = new Map();
    let shown = 0;
    cards.forEach((card, n) => {
      if (card.e !== index || rest.some((axis) => view.get(`y.${axis.name}`) && (card.x || {})[axis.name] !== view.get(`y.${axis.name}`))) return;
      const cell = JSON.stringify([(card.x || {})[down] ?? "", (card.x || {})[across] ?? ""]);
      if (!cells.has(cell)) cells.set(cell, []);
      cells.get(cell).push(n);
      shown += 1;
    });
    $("axis-count").textContent = `${shown} tasks`;
    const open_ = rest.filter((axis) => !view.get(`y.${axis.name}`));
    const valuesOf = (name) => {
      const axis = entry.axes.find((one) => one.name === name);
      return axis ? [...axis.values, ...(cards.some((card) => card.e === index && !(card.x && name in card.x)) ? [""] : [])] : [""];
    };
    const tops = valuesOf(across), head = el("tr", {}, el("th", { textContent: [down, across].filter((name) => name !== "-").join(" ↓ → ") }));
    for (const value of tops) head.append(el("th", { scope: "col" }, el("bdi", { textContent: short(value) || "–" })));
    const body = el("tbody");
    for (const value of valuesOf(down)) {
      const row = el("tr", {}, el("th", { scope: "row" }, el("bdi", { textContent: short(value) || "–" })));
      for (const other of tops) {
        const inside = cells.get(JSON.stringify([value, other])) || [];
        row.append(el("td", {}, el("div", { className: "cell" }, ...inside.map((n) => {
          const note = open_.map((axis) => (cards[n].x || {})[axis.name]).filter(Boolean);
          if (cards[n].n > 1) note.push(`sample ${cards[n].n > 10000 ? "again" : cards[n].n}`);
          const made = tile(n, note.length ? el("span", { className: "note", textContent: note.join(", ") }) : "");
          made.title = cards[n].i;
          return made;
        }))));
      }
      body.append(row);
    }
    $("axis-grid").replaceChildren(el("table", {}, el("thead", {}, head), body));
  };

  // ---- the large view

  const large = $("large");
  let open = null;
  const look = (index) => {
    open = cards[index];
    showLarge();
    if (!large.open) large.showModal();
    large.scrollTop = 0;
    set("card", nameOf(open));
    const next = cards[list[list.indexOf(index) + 1]];
    if (next && next.f && next.f[0].t) new Image().src = next.f[0].h;
  };
  const step = (by) => {
    const place = list.indexOf(cards.indexOf(open)) + by;
    if (place >= 0 && place < list.length) look(list[place]);
  };
  const figure = (name, source, href, text, title) => {
    const image = el("img", { alt: text, decoding: "async" });
    image.onerror = () => { if (image.getAttribute("src") !== source) image.src = source; };
    image.src = href || source;
    return el("figure", { className: name }, href ? el("a", { href, target: "_blank", rel: "noopener" }, image) : image, el("figcaption", { dir: "auto", textContent: title }));
  };
  const showLarge = () => {
    const card = open, place = list.indexOf(cards.indexOf(card));
    $("large-title").replaceChildren(el("bdi", { textContent: card.i }), " ", el("span", { className: `badge ${card.s}`, textContent: card.s }));
    $("place").textContent = place < 0 ? "" : `${place + 1} of ${list.length}`;
    $("previous").disabled = place <= 0;
    $("next").disabled = place < 0 || place + 1 >= list.length;
    const rejected = rejects.has(nameOf(card));
    $("reject").setAttribute("aria-pressed", rejected);
    $("reject").firstChild.data = rejected ? "Rejected " : "Reject ";
    $("reject").disabled = !canReject(card);
    if ($("stage").dataset.name !== nameOf(card)) {
      $("stage").dataset.name = nameOf(card);
      const sides = (card.m || []).filter((one) => one.t).map((one) => figure("side", one.t, "", `${one.r}: ${one.n}`, `${one.r}: ${one.n}`));
      const mains = (card.f || []).filter((one) => one.t).map((one) => figure("main", one.t, one.h, alt(card), `${one.w} × ${one.y}, ${one.b}`));
      $("stage").replaceChildren(...(sides.length ? [el("div", { className: "sides" }, ...sides)] : []), ...(mains.length ? mains : [el("p", { className: "quiet", textContent: card.f ? "the file is gone" : `no image: ${card.s}` })]));
    }
    $("details").replaceChildren(...details(card));
  };
  const copied = (text) => [el("code", { textContent: text }), copyButton(text)];
  const copyButton = (text) => {
    const made = el("button", { type: "button", textContent: "Copy" });
    made.dataset.copy = text;
    return made;
  };
  const details = (card) => {
    const rows = el("dl");
    const add = (name, ...value) => { if (value.length && value[0]) rows.append(el("dt", { textContent: name }), el("dd", { dir: "auto" }, ...value)); };
    for (const [name, value] of Object.entries(card.x || {})) add(name, value);
    for (const [name, value] of Object.entries(data.params[card.o] || {})) add(name, value);
    if (card.n > 1 && card.n <= 10000) add("sample", String(card.n));
    for (const one of card.m || []) add(one.r, one.h ? el("a", { href: one.h, target: "_blank", rel: "noopener noreferrer", textContent: one.n }) : one.n);
    add("price", card.u && `${card.u}${card.b ? ` (${card.b})` : ""}`);
    add("took", card.w);
    add("saved", card.t && card.t.replace("T", " ").replace(/\.\d+Z$/, " UTC"));
    add("attempt", card.a && String(card.a));
    for (const file of card.f || []) add("file", el("a", { href: file.h, target: "_blank", rel: "noopener", textContent: file.p }), ` ${file.b}${file.t ? "" : ", gone"}`);
    if (card.j) add("job", ...copied(card.j));
    if (card.q) add("request", ...copied(card.q));
    add("id", ...copied(card.i));
    add("key", ...copied(card.k));
    if (card.g) add("in its place", card.g);
    const prompt = card.p ? [el("p", { className: "text", dir: "auto", textContent: card.p }), copyButton(card.p)] : [];
    const reason = card.s !== "saved" && card.r ? [el("p", { className: "reason quiet", dir: "auto", textContent: card.r })] : [];
    return [...reason, ...prompt, rows];
  };
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  $("reject").onclick = () => toggleReject(open);
  $("close").onclick = () => large.close();
  large.addEventListener("close", () => {
    const place = found.indexOf(cards.indexOf(open));
    open = null;
    $("stage").dataset.name = "";
    $("stage").replaceChildren();
    set("card", "");
    if (part === "images" && place >= 0) goTo(place);
  });
  large.addEventListener("click", (event) => { if (event.target === $("stage")) large.close(); });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "r") {
      const focused = document.activeElement.closest(".tile");
      toggleReject(open || (focused && cards[focused.dataset.card]));
    } else if (event.key === "/" && !open) {
      event.preventDefault();
      show("images");
      $("search").focus();
    } else if (open && /^Arrow/.test(event.key)) {
      event.preventDefault();
      step(event.key === "ArrowLeft" || event.key === "ArrowUp" ? -1 : 1);
    }
  });

  // ---- the parts of the page

  const links = [...document.querySelectorAll("nav a")];
  const show = (name) => {
    part = name;
    for (const one of PARTS) $(one).hidden = one !== name;
    for (const link of links) {
      if (link.hash === `#${name}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    keep();
    if (name === "axes") showAxes();
    if (name === "images") layout();
  };
  for (const link of links) {
    link.onclick = (event) => { event.preventDefault(); show(link.hash.slice(1)); scrollTo(0, 0); };
    if (link.hash === "#axes") link.hidden = !withAxes.length;
  }
  if (part === "axes" && !withAxes.length) part = "images";
  for (const link of document.querySelectorAll("a.id")) {
    const index = cards.findIndex((card) => card.i === link.dataset.task && card.k === link.dataset.key);
    if (index < 0) continue;
    link.href = "#";
    link.onclick = (event) => { event.preventDefault(); list = [index]; look(index); };
  }

  axisFilters();
  filter();
  show(part);
  showRejects();
  const opened = byName.get(view.get("card"));
  if (opened) { list = found; look(cards.indexOf(opened)); }

  // ---- a page that is written again and again: an image beside it is as wide as the number of its newest writing

  if (data.stamp) {
    const [mine, address] = data.stamp;
    const kept = `rsbatch:${data.id}:scroll`;
    try { scrollTo(0, Number(sessionStorage.getItem(kept)) || 0); sessionStorage.removeItem(kept); } catch { /* as above */ }
    const look_ = () => {
      const stamp = new Image();
      stamp.onload = () => {
        const busy = open || document.hidden || document.activeElement === $("search") || String(getSelection());
        const loses = rejects.size && remembered("rejects") === null;
        if (stamp.naturalWidth === mine || busy || loses) return;
        try { sessionStorage.setItem(kept, scrollY); } catch { /* as above */ }
        location.reload();
      };
      stamp.src = `${address}?${Date.now()}`;
    };
    setInterval(look_, 2000);
  }
})();
