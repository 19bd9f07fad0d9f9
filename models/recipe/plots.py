"""Plot skeletons: each is a list of beats, each beat one or two sentences.

The slots come from `cast.Cast`. `{who}` and `{fwho}` read as the name or as the label of the hero
and the friend; `{thing}` reads with or without its colour. The last beat of each plot is an end.
A story may leave out beats whose first sign is `?`.
"""

Plot = tuple[str, ...]

PLOTS: dict[str, Plot] = {
    "lost": (
        "{name} had a {new_thing}. [{he} loved it very much|It was {his} favorite thing in the "
        "world|{he} took it everywhere|It was a gift from {his} {grown}].",
        "[One {weather} {time}|One day|But one {time}], {who} [could not find it|saw that it was "
        'gone|looked for the {thing}, but it was not there]. ["Where is my {thing}?" {he} '
        'cried.|{name} was {sad}.|"Oh no! My {thing} is gone!" said {name}.]',
        "?{he} looked [under the bed|behind the door|in every box] and [in the kitchen|under the "
        "table|on every shelf], but [it was not there|{he} did not find it|there was no {thing}].",
        "{who} [went|walked|ran] to {place} to look for the {thing}. There {he} met {fname}, "
        "[the {fadj} {fkind}|a {fadj} {fkind}].",
        '"[Why are you sad?|What is wrong?|What are you looking for?]" asked {fname}. "I lost '
        'my {thing}," said {name}. "[Do not worry|Do not cry], I will help you," said {fname}.',
        "?Together they looked [near the water|behind the rocks|in the tall grass] and [under the "
        "leaves|around the trees|along the path]. [It took a long time.|It was hard work.|They did "
        "not give up.]",
        "[At last|Then|Suddenly], {fname} saw something {color} [under a bush|behind a big "
        'stone|between two trees|in the grass]. ["Look, {name}! Is this your {thing}?"|"I '
        'found it!" said {fname}.] It was the {thing}!',
        '{name} was {glad}. "Thank you, {fname}! [You are a good friend|You are so kind]," {he} '
        "said. [From that day on, {name} and {fname} were best friends.|They played together "
        "until the sun went down.|{name} took the {thing} home and never lost it again.]",
    ),
    "new_friend": (
        "{name} [did not have any friends|was new in town|often played alone]. {he} wanted "
        "[somebody to play with|a friend more than anything].",
        "One {weather} {time}, {who} went to {place}. There {he} saw a {fadj} {fkind} sitting "
        "[all alone|under a tree|on a stone].",
        '"[Hello|Hi]! My name is {name}," {he} said. "What is your name?" "I am {fname}," '
        "said the {fkind} [in a soft voice|with a smile|and looked down].",
        "?{fname} was [shy|a little afraid] at first. But {name} [smiled|sat down beside {fhim}|"
        "told a funny joke], and soon {fname} [smiled too|was not afraid any more|laughed].",
        '"Do you want to play {game}?" asked {name}. "Yes, [please|I do|I would love that]!" '
        "said {fname}. They played {game} [all day|until it was dark|for a long time].",
        '?Then they sat down and shared some {fruits}. ["These are very good," said '
        '{fname}.|"I like {fruits}," said {name}. "Me too!" said {fname}.]',
        'When the sun went down, {name} said, "I [must go|have to go] home now. [Will you come '
        'back|Can we play again] tomorrow?" "[Of course|Yes]!" said {fname}.',
        '{who} [walked|ran] home with a big smile. "I have a new friend," {he} told {his} '
        "{grown}. [After that, {name} was never lonely again.|And {name} and {fname} played "
        "together every day.]",
    ),
    "storm": (
        "One {time}, {who} was playing {game} near {place}. The sky [was|grew] dark, and the wind "
        "began to blow.",
        "[Soon|Then] it started to rain. [Thunder rolled over the hills.|There was a loud "
        "boom!|The rain fell harder and harder.] {name} was afraid.",
        '?"I must find a dry place," thought {name}. {he} ran [as fast as {he} could|through the '
        "mud|past the trees], but the rain was cold.",
        '[Suddenly|Then], {he} heard a small voice. "[Come in here|Over here]!" It was {fname}, '
        "a {fadj} {fkind}, who was sitting in [a small cave|an old hut|a hollow tree].",
        '{name} [went|ran|hurried] inside. It was [warm and dry|small but dry]. "Thank you, '
        '{fname}," said {name}. "[I was so afraid|The storm is very loud]."',
        '?"[Let us sing a song|Let us tell stories] until the storm is over," said {fname}. So '
        "they [sang|laughed] and [ate some {fruits}|sat close together], and {name} was not "
        "afraid any more.",
        "After a while, the rain stopped. [The sun came out|The clouds went away], and there was "
        "a [big|beautiful] rainbow over {place}.",
        '"[Look how pretty it is!|The storm is over!]" said {name}. {name} and {fname} [walked '
        "home together|danced in the puddles|jumped in every puddle on the way home]. [They were "
        "{glad}.|{name} learned that a storm is not so bad with a friend.]",
    ),
    "baking": (
        "One {weather} {time}, {name} wanted to make {food}. It was the birthday of {fname}, the "
        "{fadj} {fkind}, [{his} best friend|who lived next door].",
        '"Can you help me make {food}?" {who} asked {his} {grown}. "Of course," said {his} '
        '{grown}. "First we need flour, milk and {fruits}."',
        "?But there were no {fruits} in the kitchen. So {name} took a basket and went to {place}, "
        "where {he} found [many|a lot of] {fruits}.",
        "{name} [put everything|poured the flour] into a big bowl. {he} stirred and stirred. "
        '[Some flour fell on {his} nose, and {he} laughed.|"This is fun!" {he} said.|It was hard '
        "work, but {he} did not stop.]",
        "?[Soon|Before long] the whole house smelled [sweet|wonderful]. {name} [waited and "
        'waited|sat in front of the oven and waited]. "Is it ready?" {he} asked [again and '
        "again|three times].",
        'When the {food} came out of the oven, {name} [carried it|took it] to {fname}. "Happy '
        'birthday, {fname}!" {he} [said|sang].',
        '{fname} was {glad}. "[Did you make this for me|Is this for me]?" {fhe} asked. "[Thank '
        'you|This is the best gift], {name}!"',
        'They ate the {food} together, [down to the last crumb|and every bite was good]. ["Next '
        'time, we will bake together," said {fname}.|{name} learned that it is nice to make '
        "others happy.]",
    ),
    "race": (
        "One day, there was a race from {place} to {place2}. {name} wanted to [run|be in the "
        "race], but {he} was [small|not very fast|slow].",
        '"You will never win," said {fname}, [a {fadj} {fkind}|the {fadj} {fkind}]. "[I am the '
        'fastest of all|I am much faster than you]." {name} did not [answer|say anything].',
        "?Every {time}, {name} [ran up and down the hill|ran around the house]. {his} {grown} "
        'said, "[Do your best|Just keep going]. That is what counts."',
        'On the day of the race, [everybody came to watch|the sun was hot]. "One, two, three, '
        'go!" {fname} ran off [like the wind|very fast], and {name} was far behind.',
        "But {fname} ran too fast and [fell over a stone|slipped in the mud|hurt {fhis} foot]. "
        '"Ow!" cried {fname}. {fhe} could not get up.',
        '{name} [saw this and stopped|came along and stopped]. "[Take my hand|Lean on me]. I '
        'will help you," {he} said. {fname} was [surprised|ashamed]. "But then you will not '
        'win!" {fhe} said.',
        '"[Winning is not everything|A friend is better than a prize]," said {name}. So {name} '
        "and {fname} crossed the line together, and [everybody clapped|everybody cheered].",
        '"I am sorry that I was mean," said {fname}. "[That is all right|I forgive you]," said '
        "{name}. [And from then on they ran together every day.|And the two became good friends.]",
    ),
    "building": (
        "{name} had a big idea. {he} wanted to build a [tree house|small boat|little bridge|"
        "wooden hut] near {place}.",
        "[First|One {weather} {time}], {who} [collected wood|found some old boards|carried many "
        "stones]. [{he} worked all {time}.|It was heavy, and {he} was soon tired.]",
        "But when {he} was almost done, [the wind blew everything down|everything fell down with a "
        'crash]. {name} was {sad}. "[I cannot do it|It is too hard]," {he} said.',
        'Just then, {fname} came along. {fname} was a {fadj} {fkind}. "[What are you building?|'
        'What happened here?]" {fhe} asked, and {name} told {fhim} [everything|the whole story].',
        '"[Let us try again|Do not give up]," said {fname}. "I will hold it, and you will tie '
        'it." [They used a strong rope.|They made it much stronger this time.]',
        "?They worked [side by side|all day long]. When they were hungry, they ate {fruits}, and "
        "then they worked again.",
        'At last it was done. "[It is perfect|We did it|Look at that]!" said {name}. They put a '
        "{new_thing} [on top|inside], so that everybody could see it.",
        '{name} was {glad}. [{he} had learned that two can do more than one.|"I could not have '
        'done it without you, {fname}," {he} said.] [And they played there all {season}.|That '
        "{time}, they sat there and watched the stars.]",
    ),
    "secret": (
        "One {weather} {time}, {who} was walking to {place}. [Under a big stone|Under some "
        "leaves|In the tall grass], {he} found a {new_thing}.",
        "[It was old and dusty.|It began to glow.|It was very beautiful.] {name} [picked it "
        'up|looked at it for a long time]. "[This must be magic!|Who lost this?]" {he} said.',
        "?{he} hid the {thing} [in {his} pocket|under {his} bed] and told nobody. It was {his} big "
        "secret. But a secret is hard to keep alone.",
        'The next day, {name} met {fname}, a {fadj} {fkind}. {fname} looked {sad}. "I lost my '
        '{thing}," {fhe} said. "My {grown} gave it to me."',
        "{name} did not know what to do. {he} [wanted to keep the {thing}|liked the {thing} very "
        "much], but {he} did not want {fname} to be sad.",
        "[At last|Then], {name} [ran home and brought the {thing}|showed the {thing} to {fname}]. "
        '"Is this yours?" {he} asked. "I found it near {place}."',
        '"Yes! [You found it|That is my {thing}]! Thank you, {name}!" said {fname}, and [hugged '
        "{him}|danced with joy].",
        "[{name} was {glad} that {he} had told the truth.|{name} learned that it feels good to be "
        "honest.] And {fname} let {him} [play with|hold] the {thing} [every day|as often as {he} "
        "liked].",
    ),
    "sick_friend": (
        "{name} and {fname} were best friends. {fname} was a {fadj} {fkind}, and [every "
        "{time}|every day] they met at {place}.",
        "But one {weather} {time}, {fname} did not come. {name} [waited and waited|waited for a "
        'long time]. "[Where is {fname}|What happened to {fname}]?" {he} wondered.',
        '{who} went to the house of {fname} and knocked. "[Come in|The door is open]," said a '
        'weak voice. {fname} was in bed. "I am sick," {fhe} said. "[My head hurts|I feel '
        'cold]."',
        '"[Poor {fname}|Oh no]! I will help you," said {name}. {he} [ran home|hurried home] and '
        'asked {his} {grown} what to do. "[Warm soup|Hot tea with honey] is good," said {his} '
        "{grown}.",
        "?So {name} brought {fhim} [a bowl of warm soup|a cup of hot tea with honey] and a "
        '{new_thing}. "[This is for you|Here you are]," {he} said. {fname} smiled a little.',
        "?{name} sat by the bed and told [a funny story|stories] until {fname} fell asleep. {he} "
        "came back the next day, and the day after that.",
        'After [three|a few] days, {fname} felt much better. "[I am well again|I can play '
        'again]!" {fhe} said, and jumped out of bed.',
        '{name} was {glad}. [That day, they played {game} until the sun went down.|"You are the '
        'best friend in the world," said {fname}.] [And both knew that a good friend is better '
        "than any medicine.|And they laughed all the way to {place}.]",
    ),
    "trip": (
        'One {season}, {name} wanted to see {place2}. ["It is far away," said {his} {grown}. '
        '"You must be careful."|{his} {grown} had told {him} about it many times.]',
        "{who} packed [a bag|a small bag] with {fruits}, [some bread|some cheese] and a "
        "{new_thing}. Then {he} said goodbye and [walked off|started to walk].",
        "?First {he} came to {place}. [It was very quiet there.|The birds were singing.|The grass "
        "was wet.] {he} sat down and ate some of the {fruits}.",
        'On the way, {name} met a {fadj} {fkind}. "I am {fname}," said the {fkind}. "[Where are '
        'you going|May I come with you]?" "I am going to {place2}," said {name}. "[Come with '
        'me|You can come too]!"',
        "So they went on together. [Soon they came to a wide river.|Then the path was blocked by a "
        'fallen tree.] "[How can we get over it|What shall we do]?" asked {fname}.',
        "{name} [had an idea|thought for a while]. {he} used the {thing} [to make a little "
        'bridge|to reach the other side], and [soon|after a while] they were over it. "You are so '
        'clever!" said {fname}.',
        "?[At last|In the end], they came to {place2}. It was [more beautiful than {name} had "
        "dreamed|wonderful]. They [ran around and laughed|looked at it for a long time].",
        "In the evening, they went home [under the stars|tired but happy]. {name} told {his} "
        "{grown} about {fname} and about everything {he} had seen. [Then {he} fell asleep with a "
        'smile.|"What a wonderful day," {he} said.]',
    ),
    "sharing": (
        "{name} had a basket full of {fruits}. {he} [wanted to eat them all|did not want to share "
        "them].",
        "{who} took the basket to {place} and sat down. Then {fname}, a {fadj} {fkind}, came by. "
        '"[I am so hungry|I have not eaten all day]," said {fname}. "May I have [one|some]?"',
        '"No," said {name}. "[They are mine|These are all mine]." {fname} was {sad} and went away.',
        "{name} ate and ate. [But soon {his} tummy hurt.|But it was not fun to eat alone.] {he} "
        "thought of {fname}, and {he} felt [bad|sorry].",
        '?"[I was not kind|That was not nice of me]," {he} said to {his} {grown}. "Then go and '
        'say sorry," said {his} {grown}. "[It is never too late|{fname} will be glad]."',
        "So {name} [took|carried] the basket and looked for {fname}. {he} found {fhim} near "
        '{place2}. "I am sorry, {fname}," said {name}. "[Please eat with me|Half of these are '
        'for you]."',
        '{fname} smiled. "Thank you, {name}!" They sat down and ate the {fruits} together. [They '
        "tasted much better now.|They talked and laughed.]",
        "[{name} learned that sharing makes everything better.|After that, {name} always shared "
        "with others.] And {fname} gave {him} a {new_thing}, because [that is what friends "
        "do|they were friends now].",
    ),
    "brave": (
        "{name} was afraid of the dark. Every night, {he} [hid under the blanket|asked {his} "
        "{grown} to leave the light on].",
        'One evening, {who} heard a [strange|little] noise near {place}. "[What is that|Who is '
        'there]?" {he} whispered. It was already dark.',
        '?{name} wanted to run away. But then {he} heard it again. "Help! Please help me!" said '
        "a small voice.",
        '{name} took a {new_thing} and a deep breath. "[I can do this|I must be brave]," {he} '
        "said. {he} went [step by step|slowly] into the dark.",
        "There was {fname}, a {fadj} {fkind}. {fname} was stuck [in a deep hole|under a "
        'branch|between two rocks]. "[I cannot get out|I am so afraid]!" said {fname}.',
        '"Hold on to this {thing}," said {name}. {he} pulled [and pulled|as hard as {he} could]. '
        "[Pop!|At last,] {fname} was free.",
        '"Thank you, {name}! You are so brave," said {fname}. "[I was afraid too|I did not know '
        'that I was brave]," said {name}, [and both of them laughed|and smiled].',
        "{name} looked up. The sky was full of stars. [The dark was not so bad after all.|From "
        "that night on, {name} was not afraid of the dark.] [{his} {grown} was very proud of "
        "{him}.|And {fname} walked home with {him}.]",
    ),
    "garden": (
        '[In spring|One spring], {name} planted a small seed near {place}. "[What will it be?|I '
        'hope it grows tall!]" {he} said. [Every day {he} gave it water.|{he} looked at it every '
        "{time}.]",
        'Day after day, nothing happened. {name} was {sad}. "[It will never grow|Maybe the seed '
        'is bad]," {he} told {his} {grown}. "Be patient," said {his} {grown}.',
        '{fname}, the {fadj} {fkind} from next door, came to look. "[There is nothing there!|What '
        'are you waiting for?]" {fhe} said. "There is a seed in the ground," said {name}. "It '
        'needs time."',
        'One {weather} morning, {who} saw a tiny green leaf. "[It is growing|Look, {fname}]!" '
        "{he} shouted, [and jumped for joy|and called {fname}].",
        "The plant grew [taller and taller|a little every day]. [Soon it was taller than {name}.|"
        "It drank the rain and the sun.] {fname} helped to [water it|keep the snails away].",
        "?Then one night, a strong wind came. {name} and {fname} tied the plant to a stick, so "
        "that it would not break.",
        "At the end of summer, there was a big {color} flower on it. It was the most beautiful "
        'flower in the [village|garden|world]. "[You were right|It was worth it]," said '
        "{fname}.",
        '{name} was {glad}. ["Good things take time," said {his} {grown}.|{he} gave {fname} a '
        "seed of the flower.] [And the next year, there were two flowers.|And {name} knew that it "
        "was true.]",
    ),
    "kite": (
        "One windy day, {who} took a {color} kite to {place}. {he} had made it {self} out of paper "
        'and string. ["Fly, kite, fly!" {he} called.|The wind was just right.]',
        "[The kite went up and up.|The kite danced in the sky.] But then the string broke, and the "
        'kite flew away. "[Come back|Oh no, my kite]!" cried {name}.',
        "{who} ran after it, [over the hill|across the field] and past {place2}. At last it got "
        "stuck in a very tall tree. {name} could not reach it.",
        "?{name} tried to climb, but the branches were too high. {he} tried to jump, but {he} was "
        "too small. {he} sat down and was {sad}.",
        'Then {fname}, a {fadj} {fkind}, came by. "[What is up there|Why are you looking up]?" '
        'asked {fname}. "My kite is stuck in the tree," said {name}.',
        '"[Climb on my back|Stand on my shoulders]," said {fname}. {name} [did so|climbed up] '
        'and reached as far as {he} could. [One more bit, and {he} had it!|"I have it!" {he} '
        "shouted.]",
        'The kite had a small hole, but [that was easy to mend|{fname} had some paper]. "Now it '
        'is your turn to fly it, {fname}," said {name}.',
        "{name} and {fname} flew the kite [until the evening|all day long]. [It went higher than "
        'ever before.|{name} was {glad}.] "[Some things need two|Thank you for your help]," said '
        "{name}.",
    ),
    "birthday": (
        "It was the birthday of {name}, but nobody said a word about it. {his} {grown} was [busy|"
        'not at home]. "[Did everybody forget|Does nobody know]?" {he} wondered.',
        "{who} went to {place}, but nobody was there. {he} went to {place2}, but there was nobody "
        "[there, too|to be seen]. {name} was {sad}.",
        '?On the way, {he} saw {fname}, a {fadj} {fkind}, with a big box. "What is in the box?" '
        'asked {name}. "Oh, nothing," said {fname}, and ran away.',
        '"[This is the worst birthday ever|I will just go home]," said {name}. Slowly, {he} '
        "walked home. The house was [dark|very quiet].",
        '{name} opened the door. "Surprise!" [everybody shouted|they all shouted]. {his} {grown} '
        "was there, and {fname}, the {fadj} {fkind}, [too|with a big smile].",
        'They had {food}, and there were {color} balloons everywhere. "[Did you think that we '
        'forgot you|Are you surprised]?" asked {fname}.',
        '?{fname} gave {him} a present. It was a {new_thing}. "[I always wanted a {thing}|'
        'It is beautiful]!" said {name}.',
        'They sang and danced until late. {name} was {glad}. ["This is the best birthday ever," '
        "{he} said.|That night, {he} could not stop smiling.]",
    ),
    "wish": (
        'One night, {who} saw a falling star [over {place}|from the window]. "[I wish I could '
        'fly|I want to see the world from above]," {he} whispered.',
        "[The next morning|When {he} woke up], there was a knock at the door. It was {fname}, a "
        '{fadj} {fkind}. "[The star sent me|I heard your wish]," said {fname}.',
        '"Take this {new_thing}," said {fname}. "Hold it, close your eyes and count to three." '
        '{name} held the {thing} and [counted|closed {his} eyes]: "One, two, three!"',
        "When {he} opened {his} eyes, {he} was high above {place}. [The houses looked like "
        'toys.|The people looked like ants.] "[This is wonderful|Look at me]!" {name} shouted.',
        "?{name} saw {place2} and all the land around it. [The wind was cold, and {he} was all "
        "alone.|But it was very quiet up there.]",
        'But after a while, {he} thought of {his} {grown} and of {his} warm bed. "[I want to go '
        'home|I miss my home]," said {name}. {he} held the {thing} and counted again.',
        'At once {he} was back at the door. {fname} was still there. "[Was it nice|Did you like '
        'it]?" asked {fname}. "Yes," said {name}, "but home is nicer."',
        "{fname} smiled, [and they had breakfast together|and stayed for breakfast]. [{name} kept "
        "the {thing} and looked at it every night.|{name} was {glad} to be at home.]",
    ),
    "puppy": (
        "On the way to {place}, {who} heard a soft sound. It came from [a basket|an old box|a "
        "bush]. {name} looked inside. There was {fname}, a {fadj} {fkind}, [cold and wet|all "
        "alone].",
        '"[Poor thing|Oh, you are all wet]!" said {name}. "Are you lost?" {fname} only looked '
        'at {him} with big eyes. ["You can come home with me," said {name}.|{name} took off '
        "{his} coat and put it around {fname}.]",
        'At home, {his} {grown} [made some warm milk|brought a blanket]. "[Let {fhim} stay until '
        '{fhe} is strong again|Of course {fhe} can stay]," {ghe} said.',
        "?Every day, {name} brought {fname} some {fruits} and told {fhim} stories. [Soon {fname} "
        "was able to run and play.|{fname} grew stronger day by day.]",
        "One {weather} {time}, they went to {place2} together. [A branch broke, and {name} fell "
        'into the water.|{name} slipped and fell into the cold river.] "Help!" {he} cried.',
        "{fname} did not wait. {fhe} [jumped in|ran to the water] and pulled {him} out. [Both of "
        'them were wet from head to toe.|"Now you have saved me," said {name}.]',
        '{his} {grown} was glad that nothing had happened. "You helped {fname}, and {fname} '
        'helped you," {ghe} said. "That is what a family does."',
        "So {fname} stayed for ever. [And {name} was never alone again.|And every night, they sat "
        "by the fire and were happy.]",
    ),
    "song": (
        "{name} loved to sing, but {he} was too shy to sing in front of others. {he} only sang "
        "[near {place}|at {place}], where nobody could hear {him}.",
        'One {weather} {time}, {fname}, a {fadj} {fkind}, was walking by. "[Who sings so '
        'beautifully|What is this lovely song]?" {fhe} thought, and stopped to listen.',
        'When {who} saw {fname}, {he} stopped at once. "[Please go on|Do not stop]," said '
        '{fname}. "I have never heard such a nice song." "I am too shy," said {name}.',
        '?"Then I will play my {thing} while you sing," said {fname}, and knocked on it softly. '
        "[Tap, tap, tap.|It made a funny sound.] {name} had to laugh.",
        'That {season}, there was a big feast at {place2}. "[Sing for us, {name}|Now it is your '
        'turn]!" said {his} {grown}. {name} [grew red|was afraid] and could not say a word.',
        'Then {fname} stood beside {him} and took {his} hand. "[Just sing to me|Look only at '
        'me]," {fhe} whispered. {name} took a deep breath and began to sing.',
        "[It was so quiet that one could hear the wind.|Everybody listened.] And when the song was "
        'over, they all clapped. "[Once more|Again, again]!" they shouted.',
        '{name} was {glad}. ["I was only shy until I began," {he} told {fname}.|"I could not '
        'have done it without you," {he} told {fname}.] [And from then on, they made music '
        "together.|And {he} was never too shy to sing again.]",
    ),
}
