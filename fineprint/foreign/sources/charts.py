# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Charts that matplotlib draws, each with the settings and questions of its page (see make_pages.py)."""

import io

import matplotlib.style
import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from fila.fineprint.foreign.sources.printed import read_pdf

INCH = 100  # pixels


def show(draw, settings):
    """Image and characters of a chart; `size` is in pixels."""
    width, height = map(int, settings["size"].split("x"))
    look = {
        "font.family": settings["font"].replace("_", " "),
        "font.size": float(settings["points"]),
        "pdf.fonttype": 42,
    }
    with matplotlib.style.context(settings.get("style", "default")), matplotlib.rc_context(look):
        figure = Figure(figsize=(width / INCH, height / INCH), dpi=INCH, layout="constrained")
        draw(figure)
        pixels, vectors = io.BytesIO(), io.BytesIO()
        figure.savefig(pixels, format="png")
        figure.savefig(vectors, format="pdf")
    _, characters = read_pdf(vectors, {"width": width})
    # What is drawn in pixels is hinted and may lie a pixel off.
    wide = [(character, box and [box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1]) for character, box in characters]
    return PIL.Image.open(pixels).convert("RGB"), wide


def ferry(figure):
    """
    @page kind=chart language=en size=760x460 font=Lato points=12
    @ask heading | What is the title of this chart? | Ferry passengers by quarter, 2031
    @ask value | How many passengers travelled in Q3? | 48,210 | 48210
    @ask compare | In which quarter were there the fewest passengers? | Q1 [-]
    @ask label | What does the vertical axis show? | Passengers
    @ask count | How many bars are there? | 4 | four [-]
    """
    axes = figure.add_subplot()
    bars = axes.bar(["Q1", "Q2", "Q3", "Q4"], [17940, 36415, 48210, 22875], color="#31688e")
    axes.bar_label(bars, labels=["17,940", "36,415", "48,210", "22,875"])
    axes.set(title="Ferry passengers by quarter, 2031", ylabel="Passengers", ylim=(0, 55000))


def snow(figure):
    """
    @page kind=chart language=en size=900x420 font=Open_Sans points=11 style=ggplot
    @ask compare | Which station is drawn with the dashed line? | Kolm Pass [-]
    @ask label | What is the label of the x axis? | Week of the season
    @ask heading | Read me the title. | Snow depth at two stations
    @ask value | What does the note with the arrow say? | storm of 9 January
    @ask count | How many lines are plotted? | 2 | two [-]
    """
    axes = figure.add_subplot()
    weeks = np.arange(1, 15)
    depth = np.array([12, 18, 25, 31, 62, 84, 90, 86, 95, 103, 97, 80, 58, 37])
    axes.plot(weeks, depth, label="Upper Ried", linewidth=2)
    axes.plot(weeks, depth * 1.3 + 14, "--", label="Kolm Pass")
    axes.annotate("storm of 9 January", (5, 62), (7.2, 40), arrowprops={"arrowstyle": "->", "color": "black"})
    axes.set(title="Snow depth at two stations", xlabel="Week of the season", ylabel="Depth (cm)")
    axes.legend()


def budget(figure):
    """
    @page kind=chart language=en size=520x520 font=Roboto points=13
    @ask value | What share of the budget goes to Rent? | 38 % | 38%
    @ask compare | Which is the smallest slice? | Insurance [-]
    @ask value | Which item takes up 24 %? | Food
    @ask heading | What is written above the pie? | Where the money goes
    @ask yesno | Is the share of Transport larger than that of Leisure? | Yes [-]
    """
    axes = figure.add_subplot()
    shares = {"Rent": 38, "Food": 24, "Transport": 17, "Leisure": 12, "Insurance": 9}
    axes.pie(
        shares.values(), labels=shares, autopct="%d %%", startangle=90, colors=matplotlib.colormaps["Pastel1"].colors
    )
    axes.set_title("Where the money goes", fontsize=18)


def energie(figure):
    """
    @page kind=chart language=de size=1100x560 font=Liberation_Sans points=14
    @ask heading | What is the title of the chart? | Stromerzeugung der Gemeinde Oberlauf
    @ask value | Wie viel Strom kam aus Wasserkraft? | 612 MWh | 612
    @ask value | How much did Photovoltaik produce? | 447 MWh | 447
    @ask compare | Which source has the shortest bar? | Biogas [-]
    @ask line | What is the source given at the bottom? | Quelle: Gemeindewerke, Stand Mai 2032 | Gemeindewerke, Stand Mai 2032 | Gemeindewerke
    """
    axes = figure.add_subplot()
    names, values = ["Wasserkraft", "Photovoltaik", "Windkraft", "Biogas"], [612, 447, 301, 128]
    bars = axes.barh(names, values, color=["#4c72b0", "#dd8452", "#55a868", "#c44e52"])
    axes.bar_label(bars, fmt="%d MWh", padding=5)
    axes.set(xlim=(0, 720))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Stromerzeugung der Gemeinde Oberlauf", loc="left", fontweight="bold")
    figure.text(0.02, 0.02, "Quelle: Gemeindewerke, Stand Mai 2032", fontsize=11)
    figure.get_layout_engine().set(rect=(0, 0.08, 1, 0.92))


def trial(figure):
    """
    @page kind=chart language=en size=640x480 font=Liberation_Serif points=12
    @ask value | What value of r is stated in the corner of the plot? | 0.87
    @ask label | What is on the horizontal axis? | Leaf length (mm)
    @ask value | How many samples were taken (n)? | 64
    @ask label | What is on the y axis? | Leaf width (mm) [-]
    """
    axes = figure.add_subplot()
    rng = np.random.default_rng(5)
    length = rng.uniform(20, 80, 64)
    axes.scatter(length, length * 0.4 + rng.normal(0, 4, 64), s=14, c="black", marker="+")
    axes.set(xlabel="Leaf length (mm)", ylabel="Leaf width (mm)")
    axes.text(0.05, 0.9, "r = 0.87\nn = 64", transform=axes.transAxes, va="top")


def servers(figure):
    """
    @page kind=chart language=en size=1000x520 font=Inter points=12 style=dark_background
    @ask heading | What is shown here? | Requests per second
    @ask value | What number is written next to node-b? | 1,874 | 1874
    @ask value | Which node has 962 requests per second? | node-d
    @ask compare | Which node handles the most requests? | node-c [-]
    @ask label | Which label does the dotted line have? | alert at 2,000
    """
    axes = figure.add_subplot()
    names, values = ["node-a", "node-b", "node-c", "node-d", "node-e"], [1320, 1874, 2215, 962, 1508]
    bars = axes.barh(names, values, color="#3ddc97", height=0.5)
    axes.bar_label(bars, labels=[f"{value:,}" for value in values], padding=6)
    axes.axvline(2000, linestyle=":", color="orange")
    axes.text(1985, 4.55, "alert at 2,000", ha="right", color="orange")
    axes.set_title("Requests per second", loc="left")
    axes.set(xlim=(0, 2500), ylim=(-0.5, 5))


def grouped(figure):
    """
    @page kind=chart language=fr size=820x500 font=Cabin points=12
    @ask heading | Quel est le titre du graphique ? | Récolte de pommes par verger (tonnes)
    @ask compare | In which year did Les Aubiers harvest more? | 2031 [-]
    @ask value | What was the harvest of La Combe in 2030? | 23.1 | 23,1
    @ask compare | Which orchard has the tallest bar of all? | Haut-Pré [-]
    @ask label | Which year do the light blue bars stand for? | 2030
    """
    axes = figure.add_subplot()
    places = np.arange(3)
    for shift, year, values, color in (
        (-0.2, "2030", [18.4, 23.1, 30.6], "#b3cde3"),
        (0.2, "2031", [21.7, 19.8, 34.2], "#8856a7"),
    ):
        axes.bar_label(axes.bar(places + shift, values, 0.38, label=year, color=color))
    axes.set_xticks(places, ["Les Aubiers", "La Combe", "Haut-Pré"])
    axes.set(title="Récolte de pommes par verger (tonnes)", ylim=(0, 40))
    axes.legend(loc="upper left")


def schedule(figure):
    """
    @page kind=chart language=en size=1200x420 font=Yanone_Kaffeesatz points=17
    @ask heading | What is this plan called? | Bridge repair: plan of work | Bridge repair
    @ask compare | Which task starts first? | Survey [-]
    @ask count | How many tasks does the plan have? | 5 | five [-]
    @ask value | How many days does Painting take? | 9 d | 9 | 9 days
    @ask value | Which task takes 21 days? | Deck
    """
    axes = figure.add_subplot()
    tasks = [("Survey", 0, 6), ("Scaffold", 5, 8), ("Deck", 12, 21), ("Railings", 28, 12), ("Painting", 38, 9)]
    for row, (_, start, days) in enumerate(tasks):
        axes.barh(row, days, left=start, color="#88a", height=0.6)
        axes.text(start + days + 0.4, row, f"{days} d", va="center")
    axes.set_yticks(range(5), [task[0] for task in tasks])
    axes.invert_yaxis()
    axes.set(title="Bridge repair: plan of work", xlabel="Day")


def panels(figure):
    """
    @page kind=chart language=en size=1400x480 font=DejaVu_Sans points=11
    @ask heading | What is the heading of panel (b)? | (b) Nitrate | Nitrate
    @ask label | What does the horizontal axis of the three panels show? | Distance from spring (km) [2]
    @ask compare | Which panel shows oxygen? | (c) | c | (c) Oxygen [-]
    @ask count | How many panels does the figure have? | 3 | three [-]
    """
    distance = np.linspace(0, 30, 40)
    curves = [
        ("(a) Temperature", 8 + distance / 4),
        ("(b) Nitrate", 2 + np.sqrt(distance)),
        ("(c) Oxygen", 11 - distance / 9),
    ]
    for axes, (title, values) in zip(figure.subplots(1, 3), curves):
        axes.plot(distance, values, color="tab:blue")
        axes.set(title=title, xlabel="Distance from spring (km)")


def heat(figure):
    """
    @page kind=chart language=it size=700x520 font=Carlito points=14
    @ask heading | Qual è il titolo? | Ore di sole, media giornaliera
    @ask cell | What is the value for Riva in Luglio? | 10.4 | 10,4
    @ask cell | Read the number for Colle in the column Gennaio. | 4.1 | 4,1
    @ask compare | Which place has the lowest value in Aprile? | Valbruna [-]
    """
    axes = figure.add_subplot()
    values = np.array([[3.2, 6.5, 10.4], [4.1, 7.3, 9.8], [2.6, 5.9, 8.7]])
    axes.imshow(values, cmap="YlOrBr", aspect="auto", vmax=16)
    axes.set_xticks(range(3), ["Gennaio", "Aprile", "Luglio"])
    axes.set_yticks(range(3), ["Riva", "Colle", "Valbruna"])
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, value, ha="center", va="center")
    axes.set_title("Ore di sole, media giornaliera")


CHARTS = {
    draw.__name__: draw for draw in (ferry, snow, budget, energie, trial, servers, grouped, schedule, panels, heat)
}
