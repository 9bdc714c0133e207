package postgrestest

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// The server that tests share, and how many databases were made there.
var shared struct {
	sync.Mutex
	server *Server
	made   int
}

// Database makes a database on a server that the tests of this process share,
// drops it when the test ends, and returns its URL and its server. TestMain calls
// Stop.
func Database(t testing.TB) (url, name string, s *Server) {
	t.Helper()
	need(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		fresh := newServer(t)
		fresh.must(copyTree(clusterOnce(t), fresh.data()))
		fresh.configure("")
		fresh.launch()
		shared.server = fresh
	}
	shared.made++
	name = fmt.Sprintf("test%d", shared.made)
	here := *shared.server
	here.t = t
	here.Create(name)
	t.Cleanup(func() { here.Exec("postgres", "DROP DATABASE "+name+" WITH (FORCE)") })
	return here.URL(name), name, &here
}

// Stop stops the shared server and removes what this process made.
func Stop() {
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		shared.server.release()
		_ = os.RemoveAll(shared.server.dir)
		shared.server = nil
	}
	if cluster.dir != "" {
		_ = os.RemoveAll(cluster.dir)
	}
}
