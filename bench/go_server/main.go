// A Go service that fills all cores, for bench/go_cost.py: about a thousand distinct stacks of 12
// to 24 frames, garbage, memory that stays, and a lock that workers fight for.
//
// Usage: go_server [-listen 127.0.0.1:0]; prints its address.
//
//	/units                     orders handled so far
//	/set?busy=1&parked=10000&rates=1
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	levels    = 10
	remembers = 20_000
	// What examples/orders sets: one lock wait in five, and blocking of more than 10 µs.
	mutexFraction    = 5
	blockNanoseconds = 10_000
)

type order struct {
	sum  [32]byte
	text []byte
}

var (
	units  atomic.Uint64
	busy   atomic.Bool
	mutex  sync.Mutex
	orders [remembers]*order
)

// left and right make 2^levels distinct stacks, as many as a service of some size has.
//
//go:noinline
func left(id uint64, level int) [32]byte {
	if level == 0 {
		return handle(id)
	}
	return step(id, level)
}

//go:noinline
func right(id uint64, level int) [32]byte {
	if level == 0 {
		return handle(id)
	}
	sum := step(id, level)
	sum[0] ^= 1
	return sum
}

func step(id uint64, level int) [32]byte {
	if id>>uint(level)&1 == 0 {
		return left(id, level-1)
	}
	return right(id, level-1)
}

//go:noinline
func handle(id uint64) [32]byte {
	kept := &order{text: make([]byte, 200+id%300)}
	binary.LittleEndian.PutUint64(kept.text, id)
	kept.sum = sha256.Sum256(kept.text)
	for round := 0; round < 40; round++ {
		kept.sum = sha256.Sum256(kept.sum[:])
	}
	remember(id, kept)
	return kept.sum
}

//go:noinline
func remember(id uint64, kept *order) {
	mutex.Lock()
	defer mutex.Unlock()
	orders[id*7919%remembers] = kept
}

func work(id, stride uint64) {
	for ; ; id += stride {
		for !busy.Load() {
			time.Sleep(10 * time.Millisecond)
		}
		left(id*2654435761>>7, levels)
		units.Add(1)
	}
}

func park(forever <-chan struct{}) { <-forever }

// set changes what the service is like; a parameter that is missing means 0.
func set(answer http.ResponseWriter, request *http.Request, parked *chan struct{}) {
	number := func(name string) (value int) {
		fmt.Sscan(request.URL.Query().Get(name), &value)
		return value
	}
	close(*parked)
	*parked = make(chan struct{})
	for count := 0; count < number("parked"); count++ {
		go park(*parked)
	}
	if number("rates") > 0 {
		runtime.SetMutexProfileFraction(mutexFraction)
		runtime.SetBlockProfileRate(blockNanoseconds)
	} else {
		runtime.SetMutexProfileFraction(0)
		runtime.SetBlockProfileRate(0)
	}
	busy.Store(number("busy") > 0)
	fmt.Fprintln(answer, runtime.NumGoroutine())
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where to serve")
	flag.Parse()
	workers := 2 * runtime.GOMAXPROCS(0)
	for worker := 0; worker < workers; worker++ {
		go work(uint64(worker), uint64(workers))
	}
	parked := make(chan struct{})
	http.HandleFunc("/set", func(answer http.ResponseWriter, request *http.Request) {
		set(answer, request, &parked)
	})
	http.HandleFunc("/units", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, units.Load())
	})
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().String())
	panic(http.Serve(listener, nil))
}
