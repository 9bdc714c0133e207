package rotation

import (
	"maps"

	"chancery/keystore"
)

// Restated returns what is to be entered because key sets are configured otherwise
// than the entries say: a skew or a rhythm that changes is no change of the catalog,
// and whoever checks the windows of a rotation by the log alone has to know it.
// entered are the particulars that were entered last, by key set. A set that has
// none there is stated too.
func Restated(specs []Spec, entered map[string]map[string]string) (records []keystore.Record) {
	for _, spec := range specs {
		are, were := particulars(spec), entered[spec.Name]
		if maps.Equal(are, were) {
			continue
		}
		records = append(records, keystore.Record{
			Principal: System, Action: keystore.ActKeySetConfigure, Outcome: keystore.OutcomeDone, KeySet: spec.Name,
			Reason: "as this node is configured", Detail: are,
		})
	}
	return records
}
