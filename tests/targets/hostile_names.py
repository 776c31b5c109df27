"""Burns in a function whose name and file name hold what separates py-spy's output. 3.8 and newer."""


def burn():
    total = 0
    for i in range(1000):
        total += i * i
    return total


NAME = "a;b\nc (d:1) 9"
NAMES = {"co_name": NAME, "co_filename": "/x;y\n(z) 5.py"}
if hasattr(burn.__code__, "co_qualname"):  # what 3.11 and newer show
    NAMES["co_qualname"] = NAME
CODE = burn.__code__.replace(**NAMES)
HOSTILE = type(burn)(CODE, globals())


def main():
    print("burning")
    while True:
        HOSTILE()


if __name__ == "__main__":
    main()
