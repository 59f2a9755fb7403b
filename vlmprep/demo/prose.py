"""The demo's words: what its drawn pages show, its conversations quote and its tokenizer is trained on."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["TOPICS", "Topic"]

_TEXT = """\
Bread
Bread needs flour, water, salt and time. The baker folds the dough every half hour, so that it grows strong without
being kneaded. A slow night in a cool room gives the crust its colour and the crumb its taste. When the loaf sounds
hollow from below, it is done. Let it rest for an hour before the first slice is cut.

Lighthouses
A lighthouse tells a ship where the rocks are, and which rocks they are. Each tower has a rhythm of its own, two short
flashes and a pause, or one long beam every fifteen seconds. The keeper used to wind the clockwork by hand and trim
the wick twice a night. Today a small lamp and a computer do the work. The lens, taller than a person, still turns as
it did a century ago.

Maps
Every map leaves something out. A railway map keeps the order of the stations and forgets their distance. A sea chart
shows depth and hides the hills behind the coast. Projections trade area against angle, because a sphere does not lie
flat on a table. Choose the map that answers your question, and distrust the one that claims to answer them all.

Rivers
A river carries stone in winter and light in summer. Where the water slows, it drops its sand and builds an island.
Where it hurries, it digs the outer bank and leaves the inner one to the reeds. Engineers straightened many rivers to
win farmland, and later gave the bends back to hold the floods. Measure the level each morning at the same place and
write the number down.

Clocks
A pendulum clock counts swings, a quartz watch counts vibrations. Both drift with temperature, one because its rod
grows longer, the other because its crystal changes its mind. An atomic clock loses one second in millions of years.
Satellites carry several, since a position is nothing but a difference between arrival times. Railways made towns
agree on the hour.

Gardens
Plant beans when the soil is warm to the touch. Peas may go out weeks earlier, for they do not mind a little frost.
Water deeply and rarely, in the morning, near the root. Leave one corner wild for the beetles and the birds. What you
do not eat this autumn becomes the compost of next spring.

Printing
Movable type turned the book from a treasure into a tool. A compositor picked letters from two cases, capitals from
the upper and small ones from the lower. The press squeezed paper against ink, one sheet at a time, some two hundred
sheets an hour. Misprints were corrected while the run went on, so no two copies are quite the same. Historians
compare them line by line.

Weather
Warm air rises, cools and lets its water go. A falling barometer announces wind, a rising one clear nights. Forecasts
for tomorrow are right nine times out of ten, for the next week only six. The models start from millions of
measurements taken by balloons, buoys, ships and aircraft. A forecast without its uncertainty is only half a forecast.

Bridges
A beam bends, an arch pushes, a cable pulls. The engineer decides which of the three shall carry the load. Stone likes
to be pressed and hates to be stretched, while steel accepts both. Long bridges move with the wind and the heat, and
joints between the spans give them room. Inspectors tap every rivet and listen.

Libraries
A library is a promise that a book can be found again. The shelf mark says which room, which case and which board.
Readers see the catalogue, and librarians see the gaps in it. A book put back in the wrong place is lost until
somebody stumbles over it. That is why the trolley at the door asks you not to help.

Bees
A bee visits one kind of flower on each flight, which is what makes her useful to the plant. Back in the hive she
dances the direction and the distance. The angle against the vertical is the angle against the sun. In winter the
colony forms a ball and shivers to stay warm. A spoon of honey is the life's work of twelve bees.

Glass
Glass is sand that forgot to crystallize. The furnace holds it at fourteen hundred degrees until the bubbles have
risen. Sheets float on molten tin and come out flat on both sides. If the pane cools too quickly, tension stays inside
and one scratch breaks it. Good glass rings, poor glass clicks.

Mountains
Snow that survives the summer becomes ice, and ice that grows heavy begins to flow. A glacier moves a hand's width a
day and carries boulders as if they were nothing. Climbers start at three in the morning, while the bridges of snow
are frozen. Above four thousand metres the breath is short and decisions are slow. Turn back while turning back is
still easy.

Music
A string that is halved sounds an octave higher. Two strings whose lengths are as three to two sound well together,
and nobody knows quite why. Tuners leave every fifth a little too narrow, so that all keys can be played. An orchestra
tunes to the oboe, since its pitch is the hardest to change. Silence is counted as carefully as the notes.

Trains
The first train of the day runs empty to clear the line. Signals protect a section of track, never a train. When a
block is occupied, the light behind it is red, and the light before that one yellow. Delays travel faster than trains,
because each crew waits for another. A timetable with a minute of slack at every junction arrives sooner than one
without.

Paper
Paper is cloth made of wood. Fibres are beaten, spread on a sieve, pressed and dried. The long side of the sheet
follows the machine, and it folds better that way. Old newspapers turn brown because the lignin was left in. A
document printed on rag paper outlives the office that filed it.

Measurement
A number without a unit is a rumour. Write 3.5 kg, not 3.5, and say whether the scale was tared. Repeat the reading
and report the spread, 12 readings within 0.02 mm are worth more than one to five decimals. Calibrate before the
series and again after it. If both calibrations disagree, throw the series away, not the calibration.

Markets
The market opens at six, when the lorries from the valley arrive. Apples cost 2.40 a kilogram, pears 3.10, and the
last crate goes for half. Fish is sold by the eye, cheese by the finger. At noon the square is swept and by one
o'clock it is empty. Only the pigeons know what was on offer.

Computers
A processor does one small thing after another, several billion times a second. Memory that lies close is fast and
scarce, memory that lies far is slow and plentiful. Most programs wait, either for the disk, the network or a person.
Measure before you optimize, and measure again after. The fastest code is the code that need not run.

Ships
A ship floats because the water it pushes aside weighs as much as the ship. Cargo low in the hull makes her stiff,
cargo on deck makes her tender. Containers are stacked by port of arrival, the last one in being the first one out. A
packed hold with equal weight on either side needs less ballast. The mate signs for every box.

Photography
A camera is a dark room with a hole. The lens gathers light, the shutter cuts time, and the aperture decides what is
sharp. Turn the camera and the file remembers which side was up. Compression throws away what the eye does not miss,
first fine colour, then fine detail. Keep the original.

Schools
The bell rings at eight and the corridor falls silent. In the third lesson the class draws bar charts of its own pets.
Seven cats, five dogs, two hamsters and one very old tortoise make a good first table. The teacher asks which bar is
the tallest and why the axis starts at zero. Homework is to find a chart in a newspaper that cheats.

Colours
Red, green and blue light add up to white. Red, yellow and blue paint add up to mud. A purple square on a white page
looks darker than the same square on black. About one man in twelve confuses red with green, so label the lines as
well as colouring them. Orange, pink, gray and brown are names for regions, not for wavelengths.

Café
The café on the corner serves crème brûlée, Käsekuchen and piñata-shaped biscuits. A small espresso costs 1,80 € and a
large one 2,60 €. On the wall hangs a card from 東京 and another from Αθήνα. The thermometer beside the door says 23 °C.
The owner answers in whatever language you begin with.

Drawings
The drawing shows seven blue circles, two red squares and a green triangle. How many circles are there, and which
colour is the largest shape? There are seven circles, and the largest shape is a yellow square in the lower left
corner. Two pictures differ in their number of shapes, their colours or their background. Describe each picture in one
sentence and count what you see from left to right.

Questions
What is the title of this page, and what does its second line say? Which bar of the chart is the tallest, and what is
its value in March? The highest value is 87 in October, the lowest 12 in January, so the difference is 75. Please
answer briefly, explain your answer step by step, or say that you are not sure. What, when, where, who, why and how
are the six questions that a reporter asks.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A titled text."""

    title: str
    sentences: tuple[str, ...]


def _topic(paragraph: str) -> Topic:
    title, text = paragraph.split("\n", maxsplit=1)
    return Topic(title=title, sentences=tuple(re.split(r"(?<=[.?]) ", " ".join(text.split()))))


TOPICS: tuple[Topic, ...] = tuple(_topic(paragraph) for paragraph in _TEXT.split("\n\n"))
