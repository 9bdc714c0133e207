package main

import (
	"encoding/hex"

	"chancery/keystore"
)

// enrolRecord says who this node is, and whether it shares its catalog: then an
// auditor looks for what its own log lacks in those of the others.
func (n *node) enrolRecord(name string, identity [16]byte) keystore.Record {
	detail := map[string]string{"node": name, "identity": hex.EncodeToString(identity[:])}
	if n.leases.shared {
		detail["catalog"] = "shared"
	}
	return keystore.Record{Principal: "chancery", Action: keystore.ActNodeEnrol, Outcome: keystore.OutcomeDone, Detail: detail}
}
