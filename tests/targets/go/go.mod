module example.com/flamewell/target

go 1.21
