"""A small encyclopedia: about 150 things in one or two plain sentences each.

A key carries its article where the question needs one (`a dog`, `rain`). Only facts that a child's
book would print; nothing here is meant to be complete.
"""
# ruff: noqa: E501, SIM905 - one entry a line, and rows of plain words, read as tables

_ENTRIES = """
a dog = A dog is an animal with four legs and a tail. Dogs are loyal, and many people keep them as pets.
a cat = A cat is a small animal with soft fur. Cats like to sleep, to play and to catch mice.
a bird = A bird is an animal with feathers and two wings. Most birds can fly, and all of them lay eggs.
a fish = A fish is an animal that lives in water. It swims with its fins and breathes with its gills.
a horse = A horse is a big animal with four long legs. Horses can run fast and carry people.
a cow = A cow is a large farm animal. Cows eat grass and give milk.
a pig = A pig is a farm animal with a round nose. Pigs are clever and like to roll in the mud.
a sheep = A sheep is a farm animal with thick wool. People use the wool to make warm clothes.
a bee = A bee is a small insect that flies from flower to flower. Bees make honey.
an ant = An ant is a very small insect. Ants live together in large groups and work as a team.
a spider = A spider is a small animal with eight legs. Many spiders make webs to catch insects.
a snake = A snake is a long animal without legs. It moves by sliding over the ground.
a frog = A frog is a small animal that can jump far. Frogs live near water and eat insects.
a bear = A bear is a big, strong animal with thick fur. Many bears sleep through the winter.
a lion = A lion is a big wild cat. Lions live in groups, and the male has a mane.
a tiger = A tiger is a big wild cat with black stripes. Tigers hunt alone.
an elephant = An elephant is the largest animal on land. It has a long trunk and big ears.
a whale = A whale is a very large animal that lives in the sea. It is not a fish, and it breathes air.
a dolphin = A dolphin is a clever animal that lives in the sea. Dolphins breathe air and like to jump.
a penguin = A penguin is a bird that cannot fly. Penguins swim very well, and many live in cold places.
an owl = An owl is a bird that hunts at night. It has large eyes and can fly without a sound.
a rabbit = A rabbit is a small animal with long ears. Rabbits eat grass and can jump well.
a mouse = A mouse is a very small animal with a long tail. Mice like seeds and are often shy.
a fox = A fox is a wild animal with a bushy tail. Foxes are known to be clever.
a wolf = A wolf is a wild animal that looks like a big dog. Wolves live and hunt in packs.
a monkey = A monkey is an animal that climbs trees very well. Monkeys like fruit.
a turtle = A turtle is an animal with a hard shell. Turtles walk slowly and can live very long.
a butterfly = A butterfly is an insect with four colorful wings. It begins its life as a caterpillar.
a dinosaur = A dinosaur is an animal that lived millions of years ago. Some dinosaurs were very big.
a dragon = A dragon is an animal from old stories. It has wings and can breathe fire, but it is not real.
a unicorn = A unicorn is a horse with one horn on its head. It lives only in stories.
a tree = A tree is a tall plant with a trunk, branches and leaves. Trees can live for many years.
a flower = A flower is the part of a plant that makes seeds. Many flowers have bright colors.
a seed = A seed is a small thing from which a new plant grows. It needs water and warmth.
a leaf = A leaf is the green part of a plant. It catches the light of the sun to make food.
a forest = A forest is a large place full of trees. Many animals live there.
a river = A river is a long stream of water that flows to a lake or to the sea.
a lake = A lake is a large body of water with land all around it.
the sea = The sea is a very large body of salt water. Fish and whales live in it.
the ocean = The ocean is the huge body of salt water that covers most of the Earth.
a mountain = A mountain is a very high part of the land. The top of a high mountain is often covered with snow.
an island = An island is a piece of land with water all around it.
a desert = A desert is a very dry place where it hardly ever rains. Only a few plants grow there.
a volcano = A volcano is a mountain from which hot melted rock can flow. The hot rock is called lava.
rain = Rain is water that falls from the clouds in drops. Plants need it to grow.
snow = Snow is frozen water that falls from the clouds in soft white flakes.
ice = Ice is frozen water. It is cold and hard, and it melts when it gets warm.
wind = Wind is air that moves. It can be a soft breeze or a strong storm.
a cloud = A cloud is made of many tiny drops of water high up in the air. Rain falls from clouds.
a storm = A storm is weather with strong wind and often with rain or snow.
a rainbow = A rainbow is a band of colors in the sky. We see it when the sun shines through the rain.
thunder = Thunder is the loud sound that lightning makes.
lightning = Lightning is a bright flash of electricity in the sky.
the sun = The sun is a star. It gives us light and warmth.
the moon = The moon goes around the Earth. It shines because the light of the sun falls on it.
a star = A star is a huge ball of hot gas that gives light. The sun is a star too.
a planet = A planet is a large round body that goes around a star. The Earth is a planet.
the Earth = The Earth is the planet on which we live. It goes around the sun once a year.
Mars = Mars is a planet. It is called the red planet because of the color of its dust.
gravity = Gravity is the force that pulls things toward the ground. It is why an apple falls from a tree.
light = Light is what makes us able to see. Most of our light comes from the sun.
fire = Fire is what happens when something burns. It gives light and heat.
water = Water is a clear liquid. All plants, animals and people need it to live.
air = Air is what we breathe. We cannot see it, but we can feel it when the wind blows.
electricity = Electricity is a kind of energy. It makes lamps shine and computers work.
energy = Energy is what makes things move, shine or get warm. Food gives energy to our bodies.
an atom = An atom is a very small piece of matter. Everything that we can touch is made of atoms.
sound = Sound is made when things shake the air. We hear it with our ears.
a magnet = A magnet is a thing that pulls iron toward itself.
a computer = A computer is a machine that follows instructions. People use it to write, to count and to play.
a robot = A robot is a machine that can move and do work. A program tells it what to do.
a phone = A phone is a machine that lets people talk to each other over a long distance.
the internet = The internet is a network that joins computers all over the world. They use it to share data.
a website = A website is a set of pages that you can read over the internet.
a program = A program is a list of instructions for a computer. The computer follows them step by step.
programming = Programming means writing instructions for a computer. The instructions are called code.
Python = Python is a programming language. It is easy to read, and many people use it for data and for the web.
JavaScript = JavaScript is a programming language. It makes web pages move and react.
Rust = Rust is a programming language. It is fast and helps people to avoid mistakes with memory.
Linux = Linux is a free operating system. Many servers and phones run on it.
Redis = Redis is a fast store for data. It keeps the data in memory.
a database = A database is a place where a computer keeps data in good order, so that it can find it again.
a server = A server is a computer that does work for other computers. They ask, and it answers.
a queue = A queue is a line in which the first one to come is the first one to be served.
an API = An API is a set of rules by which one program can ask another program for something.
a function = A function is a piece of code with a name. It takes some values and gives back a result.
a variable = A variable is a name for a value in a program. The value can change.
a loop = A loop is a piece of code that runs again and again.
a list = A list is a row of things in a fixed order.
recursion = Recursion is when a function calls itself. It stops when the problem is small enough.
an algorithm = An algorithm is a list of steps that solves a problem. A recipe is like an algorithm for a cake.
machine learning = Machine learning means that a computer learns from examples. Nobody tells it every rule. It looks at many examples, finds what they have in common, and uses that to guess the answer for a new one.
deep learning = Deep learning is machine learning with a neural network that has many layers. Each layer learns a little more than the one before it.
a neural network = A neural network is a program that learns from examples. It has many small parts that pass numbers to each other.
AI = AI is short for artificial intelligence. It means a machine that does things for which people need to think, such as reading or playing chess.
artificial intelligence = Artificial intelligence means a machine that does things for which people need to think, such as reading or playing chess.
a language model = A language model is a program that has read a lot of text. It writes by guessing the next word, again and again.
a token = A token is a small piece of text, such as a word or a part of a word. A language model reads and writes tokens.
quantum computing = Quantum computing is a new way to build computers. A normal computer works with bits, which are 0 or 1. A quantum computer works with qubits, which can be a mix of both until we look. For some hard problems this can be much faster.
a quantum computer = A quantum computer works with qubits, which can be a mix of 0 and 1 until we look. For some hard problems it can be much faster than a normal computer.
inference = Inference means using a trained model to get an answer. Training is learning, and inference is using what was learned.
Baton = Baton is a service that runs language models. It puts every request into a queue and streams the answer back.
a house = A house is a building in which people live. It has walls, a roof, a door and windows.
a school = A school is a place where children learn to read, to write and to count.
a library = A library is a place with many books. You can read them there or take them home for a while.
a hospital = A hospital is a place where doctors and nurses help people who are sick.
a farm = A farm is a place where people grow plants and keep animals for food.
a city = A city is a large place where many people live and work.
a village = A village is a small place where only a few people live.
a bridge = A bridge is a way over a river or a road.
a car = A car is a machine with four wheels. People use it to travel on roads.
a train = A train is a row of wagons that moves on rails. It can carry many people.
a bicycle = A bicycle is a machine with two wheels. You move it with your feet.
a boat = A boat is a small ship. It carries people over the water.
an airplane = An airplane is a machine with wings. It carries people through the air.
a rocket = A rocket is a machine that can fly into space.
a clock = A clock is a machine that shows the time.
a book = A book is a set of pages with words or pictures. People read books to learn and to have fun.
music = Music is sound that is made to be beautiful. People sing it or play it on instruments.
a piano = A piano is an instrument with black and white keys.
a guitar = A guitar is an instrument with strings. Most guitars have six of them.
a poem = A poem is a short text with a rhythm. Many poems rhyme.
a haiku = A haiku is a short poem from Japan. It has three lines with five, seven and five syllables.
a story = A story tells what happened to somebody. It has a beginning, a middle and an end.
a joke = A joke is a short text that makes people laugh.
a friend = A friend is somebody whom you like and trust. Friends help each other.
friendship = Friendship is when people like and trust each other. Good friends help and share.
love = Love is a strong and warm feeling for somebody or something.
courage = Courage means to do what is right even when you are afraid.
time = Time is what a clock measures. It goes on from the past to the future.
money = Money is what people use to buy and sell things.
work = Work is what people do to make or to change something. Many people work to earn money.
sleep = Sleep is a rest for the body and the mind. People need it every night.
a dream = A dream is a story that the mind makes while we sleep.
bread = Bread is a food made of flour and water. It is baked in an oven.
cheese = Cheese is a food made of milk.
milk = Milk is a white drink. It often comes from cows.
honey = Honey is a sweet food that bees make from flowers.
an apple = An apple is a round fruit that grows on a tree. It can be red, green or yellow.
a banana = A banana is a long yellow fruit. It is soft and sweet.
an orange = An orange is a round fruit full of sweet juice. Its color is orange too.
chocolate = Chocolate is a sweet food made from cocoa beans.
coffee = Coffee is a dark, hot drink made from roasted beans. It helps people to stay awake.
tea = Tea is a hot drink made from leaves and water.
pizza = Pizza is a flat bread with tomatoes and cheese on top. It comes from Italy.
soup = Soup is a warm food that you eat with a spoon.
sugar = Sugar is sweet. It comes from plants, and people put it into cakes.
salt = Salt is a white mineral that we put on food. There is a lot of it in the sea.
a year = A year is the time that the Earth needs to go around the sun. It has twelve months.
a day = A day has twenty-four hours.
a week = A week has seven days.
a month = A month is about thirty days. A year has twelve months.
spring = Spring is the season after winter. The flowers begin to grow.
summer = Summer is the warmest season of the year.
autumn = Autumn is the season after summer. The leaves turn yellow and red.
winter = Winter is the coldest season of the year. In many places it snows.
math = Math is the study of numbers and shapes. We use it to count and to measure.
a number = A number tells how many there are of something.
a circle = A circle is a round shape. Every point on it is equally far from the center.
a triangle = A triangle is a shape with three sides.
a square = A square is a shape with four equal sides and four equal corners.
science = Science is a way to find out how the world works. Scientists ask questions and test their ideas.
history = History is the study of what happened in the past.
a teacher = A teacher is somebody who helps others to learn.
a doctor = A doctor is somebody who helps people who are sick.
a king = A king is a man who rules a country. His wife is a queen.
the heart = The heart is a part of the body. It pumps the blood.
the brain = The brain is the part of the body with which we think and feel.
photosynthesis = Photosynthesis is how plants make their food. They use light, water and air.
"""

_CAPITALS = """
France Paris|Germany Berlin|Italy Rome|Spain Madrid|Portugal Lisbon|England London|Ireland Dublin|
Austria Vienna|Greece Athens|Poland Warsaw|Sweden Stockholm|Norway Oslo|Finland Helsinki|
Denmark Copenhagen|Russia Moscow|Turkey Ankara|Egypt Cairo|Kenya Nairobi|India New_Delhi|China Beijing|
Japan Tokyo|Canada Ottawa|Mexico Mexico_City|Brazil Brasilia|Peru Lima|Cuba Havana|Australia Canberra|
Hungary Budapest|Belgium Brussels|Switzerland Bern|the_United_States Washington
"""

_OPPOSITES = """
big small|hot cold|up down|day night|left right|fast slow|happy sad|good bad|light dark|old young|
open closed|full empty|high low|hard soft|wet dry|rich poor|strong weak|loud quiet|early late|
near far|long short|clean dirty|first last|in out|yes no|black white|on off|begin end|love hate|
always never|thick thin|true false|brave afraid|sweet sour
"""

_COLORS = """
the_sky blue|grass green|snow white|the_sun yellow|a_banana yellow|a_lemon yellow|blood red|
a_tomato red|coal black|the_sea blue|a_carrot orange|an_orange orange|milk white|a_frog green|
chocolate brown|a_pig pink|an_elephant gray|a_leaf green|a_strawberry red|the_night black|gold yellow
"""

_SOUNDS = """
dog woof|cat meow|cow moo|sheep baa|duck quack|pig oink|horse neigh|lion roar|bee buzz|frog croak|
owl hoot|mouse squeak|snake hiss|hen cluck
"""

_TRANSLATIONS = """
hello bonjour hola hallo|goodbye au_revoir adiós auf_Wiedersehen|thank_you merci gracias danke|
yes oui sí ja|no non no nein|dog chien perro Hund|cat chat gato Katze|house maison casa Haus|
water eau agua Wasser|bread pain pan Brot|milk lait leche Milch|friend ami amigo Freund|
love amour amor Liebe|book livre libro Buch|sun soleil sol Sonne|moon lune luna Mond|
red rouge rojo rot|green vert verde grün|night nuit noche Nacht|day jour día Tag|tree arbre árbol Baum
"""


def _rows(table: str) -> tuple[tuple[str, ...], ...]:
    cells = (cell.split() for cell in table.replace("\n", "").split("|"))
    return tuple(tuple(word.replace("_", " ") for word in cell) for cell in cells)


def _pairs(table: str) -> tuple[tuple[str, str], ...]:
    return tuple((left, right) for left, right in _rows(table))


FACTS: dict[str, str] = dict(
    (line.split(" = ")[0], line.split(" = ")[1]) for line in _ENTRIES.strip().split("\n")
)
CAPITALS = _pairs(_CAPITALS)
OPPOSITES = _pairs(_OPPOSITES)
COLORS_OF = _pairs(_COLORS)
SOUNDS = _pairs(_SOUNDS)
TRANSLATIONS = _rows(_TRANSLATIONS)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = tuple(
    "January February March April May June July August September October November December".split()
)
NUMBERS = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty".split()
)
