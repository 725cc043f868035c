"""The page of a report: that it holds what it shows, says what was computed, and works in a browser."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.errors import ArgumentError, OutputExistsError, SagefmError
from tests.browser import chromium, find_chromium
from tests.space_ranger import write_folder
from tests.test_cli import fails, succeeds

#: Elements that load something, and the attribute that says from where.
SOURCES = {
    "img": "src",
    "script": "src",
    "link": "href",
    "image": "xlink:href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
    "use": "href",
}
VOID = {"meta", "link", "input", "br", "img", "hr"}
GENES = ["PLP1", "MBP", "GFAP", "SNAP25", "PCP4", "NEFL", "MOBP", "CST3"]


class Document(HTMLParser):
    """What a page is made of: elements with their attributes, headings, text, and whether tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.headings, self.text, self.wrong = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    def of(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


def read(path):
    return Document(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def window():
    """A part of the bundled Visium section that has cortex and white matter, in whole pixels, and the spots around it."""
    whole = sagefm.datasets.dlpfc()
    near = whole.obs["array_row"].between(0, 40) & whole.obs["array_col"].between(0, 50)
    return whole[near].copy(), whole[~near].copy()


@pytest.fixture(scope="session")
def one(window, tmp_path_factory):
    """The page of a folder of Space Ranger, made by the command; with the image of the tissue."""
    folder = tmp_path_factory.mktemp("one")
    write_folder(folder / "brain" / "outs", *window)
    path = folder / "brain.html"
    said = succeeds(
        "report", folder / "brain", "-o", path, "-n", 3, "--genes", ",".join(GENES), "--sources", "PTN,APOE", "--targets",
        "PTPRZ1,LRP1",
    )  # fmt: skip
    assert f"Wrote {path}" in said
    return path


@pytest.fixture(scope="session")
def two(window, tmp_path_factory):
    """The page of two sections side by side."""
    near = window[0]
    half = near.obs["array_col"] < 25
    sections = {"left <half>": near[half].copy(), "right & rest": near[~half].copy()}
    path = tmp_path_factory.mktemp("two") / "two.html"
    arguments = {"n_domains": 3, "genes": GENES, "sources": ["PTN"], "targets": ["PTPRZ1"]}
    return sagefm.report(sections, path, **arguments, progress=False)


@pytest.fixture(params=["one", "two"])
def page(request):
    return read(request.getfixturevalue(request.param))


# The page as a file


def test_a_page_loads_nothing(page):
    for tag, attributes in page.elements:
        source = attributes.get(SOURCES.get(tag, ""), "")
        assert not source or source.startswith(("data:", "#")), (tag, source[:80])
        target = attributes.get("href", "")
        assert tag != "a" or target.startswith(("#", "data:text/csv")), target[:80]
    pictures = page.of("image", "img")
    assert len(pictures) >= 5
    for attributes in pictures:
        source = attributes.get("xlink:href") or attributes["src"]
        assert base64.b64decode(source.partition("base64,")[2])[1:4] == b"PNG"


@pytest.mark.parametrize("name", ["one", "two"])
def test_styles_and_scripts_load_nothing(name, request):
    path = request.getfixturevalue(name)
    html = path.read_text(encoding="utf-8")
    assert not re.findall(r"@import|url\((?!#)", html)
    addresses = set(re.findall(r"https?://[\w./#-]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert path.stat().st_size < 10_000_000


def test_a_page_is_well_formed(page):
    assert not page.wrong
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for attributes in page.of("a"):
        assert not attributes["href"].startswith("#") or attributes["href"][1:] in ids
    labels = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(labels) <= set(ids)


def test_screen_readers(page):
    """Language, title, headings in order, words for every picture, and headers of tables."""
    assert page.of("html") == [{"lang": "en"}]
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    for attributes in page.of("svg", "canvas"):
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 15
    assert all(attributes.get("scope") == "col" for attributes in page.of("th"))
    assert all("data-label" in attributes for attributes in page.of("td"))
    assert len(page.of("figcaption")) == len(page.of("figure"))


def test_contrast():
    """Of text with its page, in light and dark: at least 4.5, as WCAG AA asks."""
    css = (sagefm._report._page.TEMPLATES / "page.css").read_text(encoding="utf-8")
    themes = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    assert len(themes) == 3

    def luminance(color):
        color = color if len(color) == 7 else "#" + "".join(2 * letter for letter in color[1:])
        parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    for theme in themes:
        colors = dict(re.findall(r"--(\w+): (#\w+)", theme))
        for text in ("text", "quiet", "accent"):
            for ground in ("page", "panel"):
                low, high = sorted((luminance(colors[text]), luminance(colors[ground])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


# What it says


def test_figures_are_those_of_the_verbs(one, window):
    """What a user gets from the calls on the page."""
    adata = window[0]
    words = read(one).words
    sagefm.tl.domains(adata, 3)
    sizes = adata.obs["sagefm_domain"].value_counts(sort=False)
    certain = (adata.obs["sagefm_domain_probability"] > 0.95).mean()
    assert "3 domains" in words
    assert f"{100 * certain:.0f} % of the spots belong" in words
    for name, size in sizes.items():
        assert re.search(rf"\b{name} {size:,} {100 * size / adata.n_obs:.1f} %", words), name
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    assert f"The median spot has {np.median(totals):,.0f} counts" in words
    sagefm.tl.impute(adata, genes=GENES)
    table = csv(one, "imputed_genes.csv").set_index("gene")
    expected = adata.var.loc[GENES, ["sagefm_imputed_r", "sagefm_imputed_q"]].set_axis(["r", "q"], axis=1)
    np.testing.assert_allclose(table.loc[GENES, ["r", "q"]], expected, rtol=1e-3, atol=1e-4)
    n_recovered = int((expected["q"] < 0.05).sum())
    assert f"{n_recovered} of 8 imputed genes follow" in words
    sagefm.tl.regulatory_network(adata, ["PTN", "APOE"], ["PTPRZ1", "LRP1"])
    edges = adata.uns["sagefm_network"]["edges"]
    found = csv(one, "couplings.csv")
    assert list(found["target"]) == list(edges["target"])
    np.testing.assert_allclose(found["effect"], edges["effect"], rtol=1e-3, atol=1e-5)
    assert "4 pairs were tested" in words
    assert "no direction" in words


def csv(path, name):
    """A table that a page offers for download."""
    (link,) = [attributes["href"] for attributes in read(path).of("a") if attributes.get("download") == name]
    from io import BytesIO

    return pd.read_csv(BytesIO(base64.b64decode(link.partition(",")[2])))


def test_markers_are_higher_in_their_domain(one):
    markers = csv(one, "markers.csv")
    assert (markers["within"] > markers["outside"]).all()
    assert (markers["log2_fold"] > 0).all()
    assert set(markers["domain"]) == {0, 1, 2}
    assert not markers["gene"].str.startswith("MT-").any()


def test_the_map_holds_the_measured_values(one, window):
    adata = window[0]
    html = one.read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, flags=re.DOTALL)[1])
    assert data["spots"] == list(adata.obs_names)
    assert data["image"]["src"].startswith("data:image/webp;base64,")
    xy = np.frombuffer(base64.b64decode(data["xy"]), "<u2").reshape(-1, 2) / 65535
    correlation = np.corrcoef(np.column_stack([xy, adata.obsm["spatial"]]).T)
    np.testing.assert_allclose([correlation[0, 2], correlation[1, 3]], 1, atol=1e-6)
    for layer in data["layers"]:
        if not layer["name"].endswith(", counts"):
            continue
        gene = layer["name"].partition(",")[0]
        values = np.expm1(np.frombuffer(base64.b64decode(layer["data"]), "<u2") / 65535 * layer["top"])
        measured = adata.X[:, adata.var_names.get_loc(gene)].toarray().ravel()
        np.testing.assert_array_equal(np.rint(values), measured)
    names = [layer["name"] for layer in data["layers"]]
    assert names[:2] == ["Domain", "Counts per spot"]
    assert any(name.endswith(", imputed") for name in names)


def test_how_it_was_made(one):
    page = read(one)
    assert f"sagefm report {one.parent / 'brain'} -o {one} --n-domains 3 --genes {','.join(GENES)}" in page.words
    assert sagefm.model.load_checkpoint(sagefm.checkpoint._resolve._bundled()["default"]).sha256 in page.words
    assert f"sagefm {sagefm.__version__}" in page.words


def test_sections_are_compared(two, window):
    words = read(two).words
    assert "left <half>" in words
    assert "right & rest" in words
    assert "2 sections" in words
    assert "By section" in words
    assert "Domains of each section" in words
    assert "one name and one color everywhere" in words
    recovered = csv(two, "imputed_genes.csv")
    assert set(recovered["section"]) == {"left <half>", "right & rest"}
    assert "combined" in set(csv(two, "couplings.csv")["library"])


def test_libraries_of_a_table_are_sections(sections, default, tmp_path):
    path = sagefm.report(sections, tmp_path / "page.html", default, library_key="library", n_domains=2, progress=False)
    words = read(path).words
    assert "section1" in words
    assert "300 spots of 2 sections" in words


# Odd input


def test_nothing_is_written_to_the_section(section, default, state, tmp_path):
    before = state(section)
    sagefm.report(section, tmp_path / "page.html", default, n_domains=2, progress=False)
    assert state(section) == before


def test_results_that_are_there_are_used(section, default, tmp_path):
    sagefm.tl.embed(section, default)
    sagefm.tl.impute(section, default, progress=False)
    sagefm.tl.domains(section, 4)
    section.obs["sagefm_domain"] = section.obs["sagefm_domain"].cat.rename_categories(["ink", "elm", "oak", "ash"])
    words = read(sagefm.report(section, tmp_path / "page.html", default, progress=False)).words
    assert "domain ink" in words
    assert "Used as found domains, embedding, imputation" in words
    other = read(sagefm.report(section, tmp_path / "page.html", n_domains=2, genes=["DBI"], progress=False)).words
    assert "Used as found" not in other


def test_only_genes_of_good_trust_are_listed(section, default, tmp_path):
    """Where imputation says which genes to trust."""
    sagefm.tl.impute(section, default, progress=False)
    best = section.var["sagefm_imputed_r"].sort_values(ascending=False).index[:6]
    section.var["sagefm_imputed_trust"] = np.where(section.var_names.isin(best[::2]), "good", "weak")
    path = sagefm.report(section, tmp_path / "page.html", default, n_domains=2, progress=False)
    assert "read maps of imputed genes only where it is good" in read(path).words
    listed = re.findall(r'data-label="Gene"><em class="gene">(\S+)</em>', path.read_text(encoding="utf-8"))
    recovered = section.var.index[section.var["sagefm_imputed_q"] < 0.05]
    assert listed == [gene for gene in best[::2] if gene in recovered]
    assert listed
    assert set(csv(path, "imputed_genes.csv")["trust"]) == {"good", "weak"}


def test_a_section_that_is_refused_still_has_a_page(section, default, tmp_path):
    section.X = section.X * 0.5
    page = read(sagefm.report(section, tmp_path / "page.html", default, progress=False))
    assert "no raw counts could be read" in page.words
    assert "must be repaired first" in page.words
    assert "Couplings could not be tested" in page.words
    assert not page.wrong


def test_another_species(section, tmp_path):
    """Domains and couplings need no model; what needs it says why it is missing."""
    section.var_names = [f"Gm{i}" for i in range(section.n_vars)]
    words = read(sagefm.report(section, tmp_path / "page.html", n_domains=2, progress=False)).words
    assert "1 problem must be repaired first" in words
    assert "falls into 2 domains" in words
    assert "is marked by Gm" in words
    assert "Spots could not be embedded" in words
    assert "Genes could not be imputed" in words
    assert "tested pair" in words or "No pair of genes" in words


def test_what_is_wrong_is_said_before_anything_is_computed(section, default, tmp_path):
    path = sagefm.report(section, tmp_path / "page.html", default, n_domains=2, progress=False)
    with pytest.raises(OutputExistsError, match=r"page.html exists"):
        sagefm.report(section, path, default, overwrite=False)
    with pytest.raises(ArgumentError, match="no folder"):
        sagefm.report(section, tmp_path / "no" / "page.html", default)
    with pytest.raises(ArgumentError, match="n_domains=1"):
        sagefm.report(section, path, default, n_domains=1)
    with pytest.raises(SagefmError, match="expected AnnData"):
        sagefm.report(3, path, default)
    section.write_h5ad(tmp_path / "section.h5ad")
    assert "page.html exists" in fails(1, "report", tmp_path / "section.h5ad", "-o", path)


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("no Chromium on the path, and CHROME_PATH is not set")
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["one", "two"])
def test_in_a_browser(name, width, dark, tab, request):
    """No error in the console, no request, all pictures there, nothing wider than the window, text that stands out."""
    tab.open(request.getfixturevalue(name), width=width, dark=dark)
    assert not tab.errors()
    assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
    wide = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('thead,svg,.offscreen')).length"
    assert tab.run(wide) == 0
    loaded = "Promise.all([...document.querySelectorAll('svg image')].map(e => { const i = new Image(); i.src = e.href.baseVal; return i.decode().then(() => i.naturalWidth > 1) }))"
    pictures = tab.run(loaded)
    assert len(pictures) >= 5
    assert all(pictures)
    brightness = tab.run(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    )
    assert (brightness < 150) is dark
    assert tab.run(
        "[...document.querySelectorAll('svg')].every(e => e.getBoundingClientRect().width > 100 || !e.checkVisibility())"
    )


def test_the_map_answers(one, tab):
    """To the choice of what is shown, to a pointer, to the keyboard; and it is a picture in print."""
    tab.open(one)
    painted = "(() => { const c = document.querySelector('canvas'); return c.toDataURL().length })()"
    before = tab.run(painted)
    tab.run(
        "(() => { const s = document.querySelector('select'); s.value = 1; s.dispatchEvent(new Event('change')) })()"
    )
    assert tab.run("document.querySelector('select').selectedOptions[0].text") == "Counts per spot"
    assert tab.run(painted) != before
    box = tab.run(
        "(() => { const b = document.querySelector('canvas').getBoundingClientRect(); return [b.left, b.top, b.width, b.height] })()"
    )
    move = "document.querySelector('canvas').dispatchEvent(new PointerEvent('pointermove', {clientX: %f, clientY: %f}))"
    tab.run(move % (box[0] + box[2] / 2, box[1] + box[3] / 2))
    tip = tab.run("document.querySelector('.tip').innerText")
    assert re.match(r"[ACGT]{16}-1\nDomain: \d\nCounts per spot: [\d,]+", tip)
    tab.run("document.querySelector('canvas').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    assert "Counts per spot" in tab.run("document.querySelector('output').textContent")
    tab.run(
        "(() => { const t = document.querySelector('.map input'); t.checked = true; t.dispatchEvent(new Event('change')) })()"
    )
    assert not tab.errors()
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert tab.run("document.querySelector('canvas').checkVisibility()") is False
    assert tab.run("document.querySelector('.still svg').checkVisibility()") is True
    tab.send("Emulation.setEmulatedMedia", media="screen")
