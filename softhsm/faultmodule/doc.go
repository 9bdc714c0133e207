// Package faultmodule builds and orders about a PKCS#11 module that fails when
// it is told to. It stands before any real module, forwards every call, and
// obeys a control file that may change while it is loaded. README.md describes
// the language of orders.
//
//	m, err := faultmodule.New(dir, "/usr/lib/softhsm/libsofthsm2.so")
//	// a program under test loads m.Path with m.Env() in its environment
//	err = m.Order("C_Sign hang nth=3", "C_Login rv CKR_PIN_INCORRECT token=other")
//	// …
//	if n := m.Count("C_Login"); n != 1 { … }
//	err = m.Clear()
//
// The module is written in C and is compiled with the system's compiler, once
// for each version of its source. No PIN, signature or value of an attribute is
// ever written anywhere.
package faultmodule
