"""Short true Python functions, haikus and jokes, each under the words that ask for it.

Fixed texts only; `questions.py` draws from them.
"""

# Several ways to name the task, parted by |; then the code.
FUNCTIONS: dict[str, str] = {
    "reverse a string|reverses a string|turn a string around": (
        "def reverse(text):\n    return text[::-1]"
    ),
    "add two numbers|adds two numbers|return the sum of two numbers": (
        "def add(a, b):\n    return a + b"
    ),
    "multiply two numbers|multiplies two numbers": "def multiply(a, b):\n    return a * b",
    "subtract two numbers|subtracts two numbers": "def subtract(a, b):\n    return a - b",
    "check if a number is even|test if a number is even|tell if a number is even": (
        "def is_even(n):\n    return n % 2 == 0"
    ),
    "check if a number is odd|test if a number is odd": ("def is_odd(n):\n    return n % 2 == 1"),
    "check if a number is prime|find out if a number is prime|test for a prime number": (
        "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range(2, n):\n"
        "        if n % i == 0:\n            return False\n    return True"
    ),
    "compute the factorial of a number|calculate a factorial|get the factorial": (
        "def factorial(n):\n    if n == 0:\n        return 1\n    return n * factorial(n - 1)"
    ),
    "compute Fibonacci numbers|calculate the Fibonacci sequence|get the nth Fibonacci number": (
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n"
        "    return a"
    ),
    "find the largest number in a list|get the maximum of a list|find the maximum": (
        "def largest(numbers):\n    return max(numbers)"
    ),
    "find the smallest number in a list|get the minimum of a list|find the minimum": (
        "def smallest(numbers):\n    return min(numbers)"
    ),
    "add up a list|sum a list|sum a list of numbers|compute the sum of a list": (
        "def total(numbers):\n    result = 0\n    for number in numbers:\n"
        "        result += number\n    return result"
    ),
    "compute the average|calculate the mean of a list|get the average of a list": (
        "def average(numbers):\n    return sum(numbers) / len(numbers)"
    ),
    "count the vowels in a string|count vowels": (
        'def count_vowels(text):\n    return sum(1 for c in text.lower() if c in "aeiou")'
    ),
    "check if a string is a palindrome|check for a palindrome|detect palindromes": (
        "def is_palindrome(text):\n    return text == text[::-1]"
    ),
    "count the words in a text|count words": (
        "def count_words(text):\n    return len(text.split())"
    ),
    "sort a list|sort a list of numbers|put a list in order": (
        "def in_order(items):\n    return sorted(items)"
    ),
    "reverse a list|turn a list around": "def reverse_list(items):\n    return items[::-1]",
    "remove duplicates from a list|remove doubles from a list": (
        "def unique(items):\n    return list(dict.fromkeys(items))"
    ),
    "square a number|compute the square of a number": "def square(n):\n    return n * n",
    "convert Celsius to Fahrenheit|turn Celsius into Fahrenheit": (
        "def to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32"
    ),
    "say hello|print hello world|greet the world": ('def hello():\n    print("Hello, world!")'),
    "greet a person|greet somebody by name": (
        'def greet(name):\n    return "Hello, " + name + "!"'
    ),
    "play FizzBuzz|solve FizzBuzz|print FizzBuzz": (
        "def fizzbuzz(n):\n    for i in range(1, n + 1):\n        if i % 15 == 0:\n"
        '            print("FizzBuzz")\n        elif i % 5 == 0:\n            print("Buzz")\n'
        '        elif i % 3 == 0:\n            print("Fizz")\n        else:\n            print(i)'
    ),
    "find the greatest common divisor|compute the gcd of two numbers": (
        "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a"
    ),
    "make a string upper case|convert a string to upper case": (
        "def shout(text):\n    return text.upper()"
    ),
    "count the letters in a word|count letters": ("def count_letters(word):\n    return len(word)"),
    "read a file|read a text file": (
        "def read(path):\n    with open(path) as file:\n        return file.read()"
    ),
}

# Three lines of five, seven and five syllables.
HAIKUS: dict[str, str] = {
    "programming|code|coding|software|a program": (
        "The cursor blinks slow\nOne small bug hides in the code\nAt dawn, the tests pass"
    ),
    "Python|a snake": (
        "A snake with no teeth\nIt counts the spaces for us\nAnd lists bloom like spring"
    ),
    "AI|machine learning|a robot|robots|a language model": (
        "It reads all our words\nThen it guesses what comes next\nA mirror that talks"
    ),
    "spring|flowers|a flower|the garden": (
        "The snow melts away\nA small flower lifts its head\nAnd smiles at the sun"
    ),
    "summer|the sun|the beach": (
        "The sun on the sand\nChildren laugh and waves roll in\nThe day has no end"
    ),
    "autumn|leaves|fall|a tree|trees": (
        "A red leaf lets go\nIt dances down with the wind\nThe branch waves goodbye"
    ),
    "winter|snow|the cold": (
        "Snow falls on the roofs\nThe whole village holds its breath\nOne candle still burns"
    ),
    "the sea|the ocean|water|waves": (
        "Blue waves touch the shore\nThey bring a shell, then take it\nThe tide never sleeps"
    ),
    "the moon|night|the night|stars|the stars": (
        "The moon climbs the hill\nA hundred stars follow it\nThe owl says good night"
    ),
    "rain|a storm|clouds|the weather": (
        "Rain taps on the glass\nA cat watches every drop\nThe tea is still warm"
    ),
    "a cat|cats": "The cat shuts her eyes\nA sunbeam moves on the floor\nSo she moves with it",
    "a dog|dogs": "A wagging brown tail\nThe ball flies, and off he goes\nHe brings back the sun",
    "a queue|waiting|a server|servers": (
        "We stand in a line\nEach one waits to have a turn\nThe line moves along"
    ),
}

# The first part of the key names the subjects; the jokes need no others.
JOKES: dict[str, str] = {
    "AI|a language model|machine learning|artificial intelligence": (
        "Why did the AI go to school? It wanted to improve its learning rate!"
    ),
    "a robot|robots": "Why was the robot tired? It had a hard drive!",
    "programming|programmers|a programmer|code": (
        "Why do programmers like the dark? Because light attracts bugs!"
    ),
    "a computer|computers": "Why was the computer cold? It left its windows open!",
    "Python|a snake|snakes": "Why is Python so calm? It never worries about brackets!",
    "a cat|cats": "What is a cat's favorite color? Purr-ple!",
    "a dog|dogs": "Why did the dog sit in the shade? He did not want to be a hot dog!",
    "a cow|cows": "What do you call a cow in the grass? A lawn mooer!",
    "a fish|fish": "Why are fish so clever? Because they live in schools!",
    "a bear|bears": "What do you call a bear without teeth? A gummy bear!",
    "a clock|time": "Why did the boy throw the clock out of the window? To see time fly!",
    "math|numbers": "Why was six afraid of seven? Because seven ate nine!",
    "a book|books|school": "Why was the math book sad? It had too many problems!",
    "a banana|fruit": "Why did the banana go to the doctor? It was not peeling well!",
    "a ghost|ghosts": "Why are ghosts bad at lying? You can see right through them!",
    "the moon|space": "How does the moon cut its hair? Eclipse it!",
    "a queue|waiting": "I wanted to tell a joke about a queue, but you will have to wait for it!",
}
