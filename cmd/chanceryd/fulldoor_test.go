package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chancery/cmd/internal/telemetry"
	"chancery/signer/server"
)

// A13: connections over a limit left no trace. Each is counted, and the log has a line a
// minute for each limit, however many there are.
func TestA13AFullDoorIsToldOfNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFullDoor("signing", telemetry.New("v1"), slog.New(slog.NewTextHandler(&log, nil)))
		flood := func(n int) {
			for range n {
				f.refused("192.0.2.1", server.BoundPerPeer)
			}
		}
		flood(1000)
		f.refused("192.0.2.2", server.BoundConnections)
		time.Sleep(tellFullEvery - 1)
		flood(1000)
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "limit=per_peer peer=192.0.2.1 more_since_last_told=0") {
			t.Errorf("%d lines: %s", n, log.String())
		}
		log.Reset()
		time.Sleep(time.Nanosecond)
		flood(1000)
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "more_since_last_told=1999") {
			t.Errorf("%d lines: %s", n, log.String())
		}
	})
}
