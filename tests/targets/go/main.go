// A Go program with known shares: burnMost and burnSome spend CPU three to one, hold keeps
// memory, allocate throws it away, contend fights for a lock, park leaves goroutines waiting.
// Prints its address; serves /debug/pprof there, by https where -tls names a file, to which it
// writes the certificate that it signed itself.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
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

// serveTLS answers https as 127.0.0.1 with a certificate that no authority signed.
func serveTLS(listener net.Listener, certificateFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true,
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(certificateFile, block, 0o600); err != nil {
		return err
	}
	fmt.Println(listener.Addr().String())
	server := &http.Server{TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}}
	return server.ServeTLS(listener, "", "")
}

func main() {
	// At Go's own rate, 512 KiB, a block of 1 MiB is seen with 1 - e^-2 = 86 %, and stands for
	// 1.16: of 24 blocks, 20 to 28 would be shown in 96 of 100 runs only. At 4 KiB each is seen.
	runtime.MemProfileRate = 4096
	network := flag.String("network", "tcp", "tcp, tcp4 or tcp6")
	listen := flag.String("listen", "127.0.0.1:0", "where to serve /debug/pprof")
	certificateFile := flag.String("tls", "", "serve https, and write the certificate here")
	mebibytes := flag.Int("hold", 8, "MiB to keep")
	busy := flag.Bool("busy", true, "burn CPU")
	flag.Parse()
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	hold(*mebibytes)
	// A heap profile is as of the last collection but one.
	runtime.GC()
	runtime.GC()
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
	listener, err := net.Listen(*network, *listen)
	if err != nil {
		panic(err)
	}
	if *certificateFile != "" {
		panic(serveTLS(listener, *certificateFile))
	}
	fmt.Println(listener.Addr().String())
	panic(http.Serve(listener, nil))
}
