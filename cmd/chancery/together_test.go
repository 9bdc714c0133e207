package main

import (
	"testing"

	"chancery/keystore"
)

func TestLogsOfTwoCatalogs(t *testing.T) {
	type keys = map[keyName]keystore.KID
	web1, web2, edge1 := keyName{"web", 1}, keyName{"web", 2}, keyName{"edge", 1}
	for what, c := range map[string]struct {
		a, b  keys
		of    keyName
		apart bool
	}{
		"nothing is told":                      {nil, nil, keyName{}, false},
		"one tells nothing":                    {keys{web1: "k"}, nil, keyName{}, false},
		"the same key":                         {keys{web1: "k"}, keys{web1: "k"}, keyName{}, false},
		"other versions":                       {keys{web1: "k"}, keys{web2: "l"}, keyName{}, false},
		"another key of one version":           {keys{web1: "k"}, keys{web1: "l"}, web1, true},
		"of two, the first":                    {keys{web1: "k", edge1: "m"}, keys{web1: "l", edge1: "n"}, edge1, true},
		"of two versions, the first":           {keys{web1: "k", web2: "m"}, keys{web1: "l", web2: "n"}, web1, true},
		"another key, and one that both have":  {keys{web1: "k", edge1: "e"}, keys{web1: "l", edge1: "e"}, keyName{}, false},
		"a key that both have, by other names": {keys{web1: "k", web2: "e"}, keys{web1: "l", edge1: "e"}, keyName{}, false},
	} {
		for range 8 { // maps have no order
			if of, apart := (named{keys: c.a}).apart(named{keys: c.b}); apart != c.apart || apart && of != c.of {
				t.Errorf("%s: %v %v, want %v %v", what, of, apart, c.of, c.apart)
			}
		}
	}
}
