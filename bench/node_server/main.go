// A Go service under load for bench/node.py: it calls itself, locks, allocates, and serves pprof.
//
// Usage: node_server PORT DUTY COUNTER_FILE
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	_ "net/http/pprof"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

type book struct {
	mutex  sync.Mutex
	orders map[int][32]byte
}

func (b *book) add(id int) {
	sum := sha256.Sum256([]byte(strconv.Itoa(id)))
	for i := 0; i < 200; i++ {
		sum = sha256.Sum256(sum[:])
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.orders[id%10000] = sum
}

func main() {
	port := os.Args[1]
	duty, err := strconv.ParseFloat(os.Args[2], 64)
	if err != nil {
		panic(err)
	}
	counter, err := os.OpenFile(os.Args[3], os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		panic(err)
	}
	runtime.SetMutexProfileFraction(100)
	runtime.SetBlockProfileRate(100000)
	b := &book{orders: map[int][32]byte{}}
	var done uint64
	var mutex sync.Mutex
	for worker := 0; worker < 2; worker++ {
		go func(worker int) {
			for id := worker; ; id += 2 {
				began := time.Now()
				b.add(id)
				mutex.Lock()
				done++
				if done%64 == 0 {
					var out [8]byte
					binary.LittleEndian.PutUint64(out[:], done)
					_, _ = counter.WriteAt(out[:], 0)
				}
				mutex.Unlock()
				time.Sleep(time.Duration(float64(time.Since(began)) * (1 - duty/2) / (duty / 2)))
			}
		}(worker)
	}
	fmt.Println(http.ListenAndServe("127.0.0.1:"+port, nil))
}
