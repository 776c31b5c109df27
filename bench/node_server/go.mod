module flamewell.example/bench/node_server

go 1.21
