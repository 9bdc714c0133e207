// Package document reads one YAML document along a Go struct, and says everything
// that is wrong with it at once, each finding with file, line, column and a hint.
// It is the only place that reads YAML, and knows nothing of what the members
// mean.
//
//	f := document.New("config.yaml")
//	var c struct { Node string `yaml:"node,required"` }
//	if f.Decode(text, &c) && c.Node == "" {
//		f.Errorf("node", "a hint", "node has no name")
//	}
//	for _, x := range f.Sorted() {
//		fmt.Println(x) // config.yaml:1:1: error: node is missing
//	}
//
// A document has plain mappings, sequences and scalars: no anchors, aliases, merge
// keys or tags. Unknown and repeated members are errors, and so is a member without
// a value. Durations are "30d", "12h", "1h30m", "90s", "250ms": a day is 24 hours.
package document
