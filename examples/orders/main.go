// Orders is a service whose requests queue up for a lock that they do not need.
//
// The price list is filled once at the start and only read afterwards, yet every order takes a
// sync.Mutex for as long as it looks up prices. One order at a time gets through, however many
// cores there are: the mutex profile shows it at priceOrder.
//
//	go run . -listen 127.0.0.1:8082 -pprof 127.0.0.1:6060
//	curl 'http://127.0.0.1:8082/order?lines=20'
//	go tool pprof -top http://127.0.0.1:6060/debug/pprof/mutex
//
// Standard library only.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	defaultLine = 20
	maxLines    = 200
)

// order is what a client gets back.
type order struct {
	Lines   int    `json:"lines"`
	Cents   int64  `json:"cents"`
	Receipt string `json:"receipt"`
}

// handleOrder prices an order of ?lines= lines and signs its receipt.
func handleOrder(answer http.ResponseWriter, request *http.Request) {
	lines := defaultLine
	if text := request.URL.Query().Get("lines"); text != "" {
		parsed, err := strconv.Atoi(text)
		if err != nil || parsed < 1 || parsed > maxLines {
			http.Error(answer, fmt.Sprintf("lines must be 1 to %d", maxLines), http.StatusBadRequest)
			return
		}
		lines = parsed
	}
	cents := prices.priceOrder(lines)
	result := order{Lines: lines, Cents: cents, Receipt: signReceipt(renderReceipt(lines, cents))}
	answer.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(answer).Encode(result); err != nil {
		log.Printf("orders: answering: %v", err)
	}
}

// renderReceipt writes the receipt's text.
func renderReceipt(lines int, cents int64) string {
	var text strings.Builder
	for line := 0; line < lines; line++ {
		fmt.Fprintf(&text, "%-20s %4d\n", articleName(line), line%4+1)
	}
	fmt.Fprintf(&text, "total %d.%02d\n", cents/100, cents%100)
	return text.String()
}

// signReceipt hashes a receipt many times over, as a slow signature would.
func signReceipt(receipt string) string {
	sum := sha256.Sum256([]byte(receipt))
	for round := 0; round < 1_500; round++ {
		sum = sha256.Sum256(sum[:])
	}
	return hex.EncodeToString(sum[:8])
}

func articleName(number int) string {
	return "article-" + strconv.Itoa(number%articles)
}

func handleHealth(answer http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(answer, "ok")
}

// pprofHandler serves profiles apart from the service's own port: nobody outside reaches it.
func pprofHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// serve answers on a loopback address until the context ends.
func serve(ctx context.Context, address string, handler http.Handler) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s: this demo listens on loopback addresses only", address)
	}
	// No write timeout: a CPU profile takes as many seconds as its reader asks for.
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8082", "where to take orders")
	profiles := flag.String("pprof", "127.0.0.1:6060", "where to serve /debug/pprof/")
	flag.Parse()
	log.SetFlags(0)

	// One in five lock waits, and blocking of more than 10 µs: enough to see it, cheap enough to
	// leave on.
	runtime.SetMutexProfileFraction(5)
	runtime.SetBlockProfileRate(10_000)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("/order", handleOrder)
	mux.HandleFunc("/healthz", handleHealth)

	failed := make(chan error, 2)
	go func() { failed <- serve(ctx, *listen, mux) }()
	go func() { failed <- serve(ctx, *profiles, pprofHandler()) }()
	log.Printf("orders: serving on http://%s, profiles on http://%s/debug/pprof/", *listen, *profiles)
	for served := 0; served < 2; served++ {
		if err := <-failed; err != nil {
			log.Fatalf("orders: %v", err)
		}
	}
}
