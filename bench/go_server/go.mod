module flamewell.example/bench/go_server

go 1.21
