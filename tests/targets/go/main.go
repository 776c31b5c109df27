// A Go program with known shares: burnMost and burnSome spend CPU three to one, hold keeps
// memory, allocate throws it away, contend fights for a lock, park leaves goroutines waiting.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"runtime"
	"sync"
	"time"
)

var (
	kept  [][]byte
	sink  uint64
	trash []byte
	lock  sync.Mutex
)

// mix is small enough to be inlined into its callers.
func mix(value uint64) uint64 {
	value ^= value << 13
	value ^= value >> 7
	return value ^ value<<17
}

//go:noinline
func burn(steps int) {
	value := sink + 1
	for step := 0; step < steps; step++ {
		value = mix(value)
	}
	sink = value
}

//go:noinline
func burnMost() { burn(3_000_000) }

//go:noinline
func burnSome() { burn(1_000_000) }

//go:noinline
func recurse(depth int) {
	if depth == 0 {
		burn(500_000)
		return
	}
	recurse(depth - 1)
}

//go:noinline
func hold(mebibytes int) {
	for count := 0; count < mebibytes; count++ {
		kept = append(kept, make([]byte, 1<<20))
	}
}

//go:noinline
func allocate() { trash = make([]byte, 256<<10) }

//go:noinline
func contend() {
	lock.Lock()
	time.Sleep(time.Millisecond)
	lock.Unlock()
}

func work() {
	for {
		burnMost()
		burnSome()
		recurse(5)
		allocate()
	}
}

func park(forever chan struct{}) { <-forever }

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where to serve /debug/pprof")
	mebibytes := flag.Int("hold", 8, "MiB to keep")
	busy := flag.Bool("busy", true, "burn CPU")
	flag.Parse()
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	hold(*mebibytes)
	forever := make(chan struct{})
	for count := 0; count < 10; count++ {
		go park(forever)
	}
	for count := 0; count < 3; count++ {
		go func() {
			for {
				contend()
			}
		}()
	}
	if *busy {
		go work()
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().String())
	panic(http.Serve(listener, nil))
}
