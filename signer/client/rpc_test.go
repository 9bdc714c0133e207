package client

import (
	"reflect"
	"testing"

	"chancery/signer/api"
)

// Everything that a request says is said over gRPC too: none of it may be lost.
func TestJWTMessageSaysAll(t *testing.T) {
	ttl := int64(60)
	req := api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`), TTL: &ttl}
	v := reflect.ValueOf(&req).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			f.SetString("said")
		}
	}
	m := jwtMessage(req).ProtoReflect()
	fields := m.Descriptor().Fields()
	if fields.Len() != v.NumField() {
		t.Errorf("the message has %d fields, the request %d", fields.Len(), v.NumField())
	}
	for i := range fields.Len() {
		if !m.Has(fields.Get(i)) {
			t.Errorf("%s is lost", fields.Get(i).Name())
		}
	}
}
