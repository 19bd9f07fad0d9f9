"""Word lists of the generators.

Only words: no templates and no draws. Each list is a tuple, in a fixed order, because a seeded
draw depends on it.
"""
# ruff: noqa: SIM905 - a row of plain words reads better than a row of quotes

# Few, so that each is seen often: the small model keeps a name only when it knows it well.
BOY_NAMES = tuple("Tom Tim Ben Sam Jack Leo Noah Finn Oscar Peter Omar Kenji".split())
GIRL_NAMES = tuple("Anna Lily Mia Sue Emma Zoe Lucy Nora Ella Sara Maya Yuki".split())
# Names for animals and things: of either sex, of males, of females.
PET_NAMES = tuple("Pip Spot Coco Fluffy Lucky Pepper Sunny Biscuit Button Ziggy".split())
PET_MALES = ("Max", "Rex", "Buddy", "Bruno")
PET_FEMALES = ("Bella", "Luna", "Ruby", "Daisy")
# Names that a user may give, which the model need only copy: of males, of females, of families.
OTHER_BOY_NAMES = tuple(
    "John James Robert Michael William David Richard Thomas Charles Daniel Matthew Mark Paul "
    "Steven Andrew George Kevin Brian Edward Henry Simon Adam Alex Luke Rufus Felix Hugo "
    "Arthur Oliver Harry Jacob Lucas Ethan Liam Mason Logan Elijah Aiden Carlos Diego Pedro "
    "Luis Ali Ahmed Hassan Ivan Dmitri Hans Fritz Pierre Jean Marco Luca Raj Arjun Wei Chen "
    "Hiro Bob Bill Joe Jim Fred Frank Alan Carl Erik Lars Theo Milo Toby Archie Charlie Billy "
    "Jimmy Danny Rocky Shadow Duke Whiskers Rover Ralph Roger Victor Walter Louis Philip Stefan "
    "Anton Boris Sergei Nikolai Jonas Emil Gustav Henrik Sven Olaf Björn Mateo Javier Miguel Juan "
    "Rafael Antonio Giovanni Paolo Enzo André Jacques Henri Claude Rashid Karim Tariq Yusuf "
    "Mustafa Amir Vikram Rohan Sanjay Takeshi Haruto Jin Minho Bao Kwame Kofi Tunde Declan Seamus "
    "Angus Gregory Theodore Sebastian Barnaby Benedict Cornelius Humphrey Jasper Percival Sherlock "
    "Dexter Bolt Sparky Gizmo Tiger Smokey Chester Winston".split()
)
OTHER_GIRL_NAMES = tuple(
    "Mary Maria Sarah Susan Linda Karen Lisa Nancy Betty Helen Sandra Ashley Emily Laura "
    "Rebecca Alice Julia Grace Rose Jane Kate Elizabeth Olivia Sophia Sophie Isabella "
    "Charlotte Amelia Harper Evelyn Abigail Hannah Chloe Victoria Eva Clara Ruth Martha "
    "Carmen Elena Fatima Aisha Leila Priya Anjali Mei Ling Hana Ingrid Greta Heidi Marie "
    "Claire Giulia Rosa Lena Nina Tina Gina Molly Holly Penny Jenny Annie Bonnie Maggie "
    "Ginger Snowball Misty Princess Willow Ivy Hazel Olive Flora Matilda Margaret Dorothy Barbara "
    "Patricia Jennifer Jessica Stephanie Nicole Melissa Angela Theresa Beatrice Eleanor Josephine "
    "Cordelia Ophelia Penelope Guinevere Rosalind Sylvia Gertrude Agnes Edith Astrid Freya Sigrid "
    "Svetlana Natasha Olga Irina Katarina Ludmila Francesca Bianca Valentina Lucia Ines Dolores "
    "Consuela Juanita Esperanza Céline Amélie Geneviève Yasmin Zahra Noor Samira Khadija Lakshmi "
    "Deepa Kavya Sakura Akiko Keiko Xiu Amara Nia Zola Thandi Siobhan Niamh Bridget Mittens "
    "Patches Cleo Nala".split()
)
FAMILY_NAMES = tuple(
    "Smith Brown Jones Miller Davis Wilson Taylor Clark Hall Young King Green Baker Hill "
    "Adams Garcia Lopez Martin Lee Tanaka Kim Singh Khan Weber Fischer Novak Rossi Silva "
    "White Black Wood Fox Stone Bell".split()
)
MALE_TITLES = ("Mr.", "Dr.", "Professor", "Captain", "Uncle")
FEMALE_TITLES = ("Mrs.", "Dr.", "Professor", "Captain", "Miss")
ANIMALS = tuple(
    "dog dog dog cat cat rabbit mouse bird fox bear duck frog horse pig cow sheep goat hen owl "
    "turtle squirrel hedgehog wolf lion tiger elephant monkey giraffe zebra penguin whale dolphin "
    "fish crab snail bee butterfly ladybug ant beaver otter mole deer donkey camel kangaroo panda "
    "parrot puppy kitten lamb chick pony robin seal crow swan".split()
)
PEOPLE = (
    "boy/m", "girl/f", "boy/m", "girl/f", "boy/m", "girl/f", "man/m", "woman/f", "king/m",
    "queen/f", "prince/m", "princess/f", "farmer/x", "baker/x", "sailor/x", "teacher/x",
    "doctor/x", "wizard/m", "witch/f", "knight/m", "pirate/x", "astronaut/x", "fisherman/m",
    "programmer/x", "scientist/x", "painter/x", "gardener/x", "shepherd/x", "cook/x", "child/x",
)  # fmt: skip
CREATURES = tuple(
    "dragon dragon fairy giant robot robot robot elf unicorn ghost monster dinosaur mermaid "
    "snowman cloud tree teapot train star boat car lamp computer kite toy balloon rocket truck "
    "clock leaf pumpkin spoon shoe alien".split()
)
ADJECTIVES = tuple(
    "little little little small young brave kind happy curious clever shy gentle funny lonely "
    "playful cheerful sleepy quiet friendly tiny old lazy hungry proud sad quick "
    "big tall wise".split()
)
COLORS = tuple("red blue green yellow orange purple pink brown white black silver golden".split())
THINGS = tuple(
    "ball hat kite book key boat drum bell lamp cup basket box button scarf ring coin bag map "
    "blanket toy car doll balloon umbrella whistle flute shell stone feather flower star spoon "
    "wagon bicycle ribbon clock mirror pencil necklace teddy puzzle robot rope bottle".split()
)
PLACES = tuple(
    "the park|the forest|the garden|the beach|the river|the lake|the hill|the market|the school|"
    "the old bridge|the meadow|the farm|the village square|the library|the mountain|the pond|"
    "the big tree|the old mill|the harbor|the barn|the playground|the field".split("|")
)
HOMES = tuple(
    "a small house|a cozy cottage|a little house by the river|a house on a hill|a tall tower|"
    "a quiet village|a small town|a big city|a big house|a warm little room|"
    "a house near the forest|an old castle|a house by the sea|a green valley|"
    "a tiny house under a tree".split("|")
)
FOODS = tuple(
    "apple pie|bread|cookies|pancakes|honey cakes|carrot cake|muffins|cherry pie|corn bread|"
    "berry tarts|buns|chocolate cake|ginger cookies|plum cake".split("|")
)
FRUITS = tuple("apples berries pears plums cherries nuts carrots peaches grapes oranges".split())
GAMES = ("hide and seek", "tag", "catch", "with a ball", "in the sand", "by the water")
GROWN_UPS = (
    "mother/f", "father/m", "grandmother/f", "grandfather/m", "aunt/f", "uncle/m",
    "mom/f", "dad/m", "grandma/f", "grandpa/m", "big sister/f", "big brother/m",
)  # fmt: skip
WEATHERS = ("sunny", "warm", "cold", "windy", "rainy", "bright", "cloudy", "snowy", "quiet")
TIMES = ("morning", "afternoon", "evening", "day")
SEASONS = ("spring", "summer", "autumn", "winter")
GLAD = ("happy", "very happy", "glad", "proud", "full of joy")
SAD = ("sad", "very sad", "worried", "upset")

# Topics that a question may name although nothing in the small encyclopedia answers it.
TOPICS = tuple(
    "quantum physics|blockchain|the stock market|democracy|relativity|the French Revolution|jazz|"
    "chess|taxes|photosynthesis|black holes|the Roman Empire|chemistry|philosophy|poetry|football|"
    "cooking|travel|databases|operating systems|cloud computing|statistics|algebra|geometry|law|"
    "medicine|economics|history|biology|physics|astronomy|space travel|neural networks|compilers|"
    "Kubernetes|Docker|Linux|JavaScript|Rust|SQL|Redis|web servers|load balancing|caching|"
    "distributed systems|climate change|renewable energy|nuclear power|genetics|evolution|DNA|"
    "viruses|vaccines|the brain|psychology|dreams|language|grammar|Shakespeare|opera|painting|"
    "photography|cinema|video games|robots|self-driving cars|electric cars|airplanes|submarines|"
    "pirates|knights|castles|dragons|unicorns|magic|ghosts|monsters|dinosaurs|volcanoes|storms|"
    "earthquakes|rivers|deserts|jungles|Antarctica|Paris|London|Tokyo|New York|Mars|Saturn|comets|"
    "coffee|tea|chocolate|pizza|pasta|cheese|ice cream|breakfast|gardens|bees|ants|spiders|sharks|"
    "whales|penguins|friendship|love|happiness|courage|time|money|work|school|sleep|exercise|yoga|"
    "meditation|running|swimming|hiking|skiing|surfing|teamwork|remote work|marketing|startups|"
    "job interviews|productivity|email|the weather|the ocean|the news|fashion|shoes|hats|bicycles|"
    "trains|bridges|skyscrapers|the pyramids|Greek myths|Vikings|samurai|origami|knitting".split(
        "|"
    )
)
# What a question may ask of a topic: `the meaning of chess`.
ASPECTS = tuple(
    "meaning purpose history origin price future theory name size age number secret cause law "
    "rule source king president mayor author inventor speed weight length height temperature "
    "color shape distance end beginning point value role "
    "structure mass population language currency flag center sense art science root".split()
)
# What a question may ask the reason of: `Why is the sky blue?`
SKIES = tuple("sky sky sea ocean sun moon grass snow night water leaf blood fire sand".split())
ERRANDS = tuple(
    "fix my car|bake a cake|learn to swim|write a letter|plan a trip|lose weight|save money|"
    "get a job|learn French|play the guitar|build a website|sort my files|grow tomatoes|sleep well|"
    "make friends|tie a tie|cook rice|clean a window|draw a cat|train a model|win at chess|"
    "deploy an app|debug this code|choose a laptop|paint a wall|raise a puppy|write a poem|"
    "center a div|install Linux|start a company|prepare for an exam|pack a bag".split("|")
)
CHORES = tuple(
    "bake|cook|make|fix|build|clean|wash|paint|draw|open|close|repair|grow|plant|buy|"
    "sell|find|learn|teach|train|feed|catch|cut|boil|fry|roast|peel|change|install|"
    "remove|delete|print|copy|use|write|read|play|sing|drive|ride|fly|climb|hide|hold|"
    "keep|store|freeze|dry|fold|iron|sew|knit|measure|calculate|compare|convert|"
    "connect|update|run|start|stop|turn off|set up|get rid of|take care of|plan|"
    "organize|choose|visit|send|order|return|win|improve|understand|remember|forget".split("|")
)
ONSETS = tuple(
    "b bl br c ch cl d dr f fl g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sn st t th tr v "
    "w x z".split()
)
RHYMES = tuple(
    "a e i o u ai ea oo ar er or an en in on un ax ex ix ox ul el il ab eb ib ob ub ash ick".split()
)
# Syllables of names that a user may give.
NAME_STARTS = tuple(
    "a al an ar as be bar bel ber bo bra bri ca car cas cha che cla con cor cy da dar del di do "
    "dra du e ed el em er es eu fa fe fer fi fo fra ga gar ge gil gor gra gu gwen ha har hel "
    "her hi ho hu i il in is ja jo ju ka kar ke ki kon kri ku la lar le len li lo lu ma mar me "
    "mi mo mor my na ne ni no o ol or os ot pa pe per phi po pri qui ra re ri ro ru sa san sca "
    "se sha si so ste su syl ta te tha the ti to tri tu u ul va ve vi vo wa wen wi win xa ya yo "
    "yu za ze zi zo".split()
)
NAME_MIDDLES = tuple(
    "b ba bi c ca d da de di do f g ga gi gre k ka ki l la le li ll lo m ma me mi mm n na ne ni "
    "nn nd nt p ph r ra re ri ro rr rt s sa se si ss st t ta te ti tt th v va ve vi x z "
    "za zi".split()
)
NAME_ENDS = tuple(
    "a ah an ana ard as ax bert by cia da den der dia do don dra dy e eaves el ella en er erick "
    "ers ert es ett ette ez ford gan gh gor ham i ia ian ick ie iel il in ina ine ing io ion "
    "ique ir is ita ius ka ke ki ko la land le len les ley li lia lin line lo lyn man mir mond "
    "na nard ne ner nia nna no o oc old on or ora os ovic ra ray re ric rick rine ro rus ry s "
    "sha ska son sky ta th ther thy ti ton tor tta u uel um us va ver vin viv wen wick win "
    "worth y ya yah yn zo".split()
)
