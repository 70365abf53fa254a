// The probe of tests/integration/test_build_go_actor.py: what is Go's own.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"plexspaces/actor"
	"plexspaces/keyvalue"
)

type Probe struct {
	Count  int
	Long   string `json:",omitempty"`
	hidden int
}

var began = time.Now()

var probe = actor.Define(
	func() *Probe { return &Probe{} },
	actor.OnStart(func(p *Probe) error {
		if p.Count < 0 {
			return fmt.Errorf("count %d is below zero", p.Count)
		}
		slog.Info("started", "count", p.Count, "hidden", p.hidden)
		return nil
	}),
	actor.OnShutdown(func(p *Probe) { slog.Info("good-bye") }),
	actor.Handle("echo", func(_ *Probe, data []byte) ([]byte, error) { return data, nil }),
	actor.Handle("count", (*Probe).count),
	actor.Handle("set", func(p *Probe, n int) (int, error) { p.Count = n; p.hidden = n; return n, nil }),
	actor.Handle("grow", func(p *Probe, n int) (int, error) { p.Long = strings.Repeat("x", n); return n, nil }),
	actor.Handle("long", func(p *Probe, _ actor.None) (int, error) { return len(p.Long), nil }),
	actor.Handle("keyvalue", keep),
	actor.Handle("ask", func(_ *Probe, data []byte) ([]byte, error) {
		return actor.Ask[[]byte]("other", "ping", data, time.Second)
	}),
	actor.Handle("ask-number", func(_ *Probe, _ actor.None) (int, error) {
		return actor.Ask[int]("other", "ping", nil, time.Second)
	}),
	actor.Handle("tell", func(_ *Probe, data []byte) (actor.None, error) {
		return actor.None{}, actor.Tell("other", "note", data)
	}),
	actor.Handle("fail", func(_ *Probe, text string) (actor.None, error) {
		return actor.None{}, errors.New(text)
	}),
	actor.Handle("wrap", func(_ *Probe, text string) (actor.None, error) {
		failure := &actor.Failure{Code: "wrapped", Message: "inside", Retryable: true}
		return actor.None{}, fmt.Errorf("%s: %w", text, failure)
	}),
	actor.Handle("garbled", func(_ *Probe, _ actor.None) (actor.None, error) {
		slog.Info("a\xffb")
		return actor.None{}, actor.Failf("no\xffpe", "as\xffked")
	}),
	actor.Handle("tree", func(_ *Probe, tree any) (any, error) { return tree, nil }),
	actor.Handle("unwritable", func(_ *Probe, _ actor.None) (float64, error) { return math.NaN(), nil }),
	actor.Handle("nil", func(p *Probe, _ actor.None) (int, error) { return nobody().Count, nil }),
	actor.Handle("sleep", func(_ *Probe, ms int) (bool, error) {
		begin, wanted := time.Now(), time.Duration(ms)*time.Millisecond
		time.Sleep(wanted)
		return time.Since(begin) >= wanted, nil
	}),
	actor.Handle("timeout", func(_ *Probe, _ actor.None) (string, error) {
		select {
		case <-make(chan int):
			return "received", nil
		case <-time.After(20 * time.Millisecond):
			return "timeout", nil
		}
	}),
	actor.Handle("goroutines", goroutines),
	actor.Handle("later", later),
	actor.Handle("print", prints),
	actor.Handle("heap", heap),
	actor.Handle("gc", func(_ *Probe, percent int) (int, error) { return debug.SetGCPercent(percent), nil }),
	actor.Handle("deadlock", func(_ *Probe, _ actor.None) (int, error) { return <-make(chan int), nil }),
	actor.Handle("exit", func(_ *Probe, _ actor.None) (int, error) { os.Exit(3); return 0, nil }),
	actor.Handle("recurse", func(_ *Probe, _ actor.None) (int, error) { return recurse(1), nil }),
	actor.Handle("stray", func(_ *Probe, _ actor.None) (int, error) {
		go panic("astray")
		time.Sleep(time.Millisecond)
		return 0, nil
	}),
	actor.Handle("surroundings", func(_ *Probe, _ actor.None) (map[string]any, error) {
		_, missing := os.ReadFile("/etc/passwd")
		return map[string]any{
			"args": os.Args, "env": os.Environ(), "os": runtime.GOOS,
			"age": time.Since(began) > 0, "file": missing != nil,
		}, nil
	}),
)

func main() { actor.Serve(probe) }

func nobody() *Probe { return nil }

func (p *Probe) count(actor.None) (int, error) {
	p.Count++
	return p.Count, nil
}

func keep(_ *Probe, data []byte) ([]byte, error) {
	if err := keyvalue.Put("k", data); err != nil {
		return nil, err
	}
	value, _, err := keyvalue.Get[[]byte]("k")
	return value, err
}

// Host calls in many goroutines at once, with garbage in between.
func goroutines(_ *Probe, n int) (int, error) {
	var all sync.WaitGroup
	results := make(chan int, n)
	for i := range n {
		all.Go(func() {
			runtime.Gosched()
			value, _, err := keyvalue.Get[[]byte](strings.Repeat("k", i%7+1))
			garbage := make([]byte, 100_000)
			if err == nil && len(value) == 1000 && bytes.Count(value, value[:1]) == 1000 {
				results <- 1 + int(garbage[i])
			}
		})
	}
	all.Wait()
	close(results)
	sum := 0
	for result := range results {
		sum += result
	}
	return sum, nil
}

var ticks int

func later(_ *Probe, _ actor.None) (int, error) {
	if ticks == 0 {
		go func() {
			for {
				ticks++
				time.Sleep(time.Millisecond)
			}
		}()
	}
	time.Sleep(5 * time.Millisecond)
	return ticks, nil
}

func prints(_ *Probe, text string) (actor.None, error) {
	println("println", text)
	fmt.Println("stdout", text)
	fmt.Fprintln(os.Stderr, "stderr", text)
	log.Printf("log %s", text)
	slog.Debug("debug "+text, "n", 1, "s", "a b", slog.Group("g", "k", true))
	slog.With("with", 2).WithGroup("h").Warn("warn", "x", 3)
	slog.Error("error")
	return actor.None{}, nil
}

// Fills much memory while calling WASI, and reads it again.
func heap(_ *Probe, mib int) (int, error) {
	var blocks [][]byte
	for i := range mib {
		block := bytes.Repeat([]byte{byte(i) | 1}, 1<<20)
		blocks = append(blocks, block)
		if i%10 == 0 {
			println("tick", i, time.Now().Unix() > 0, os.Getenv("GREETING"))
			if _, _, err := keyvalue.Get[[]byte]("k"); err != nil {
				return 0, err
			}
		}
	}
	bad := 0
	for i, block := range blocks {
		bad += len(block) - bytes.Count(block, []byte{byte(i) | 1})
	}
	return bad, nil
}

func recurse(n int) int { return recurse(n+1) + n }
