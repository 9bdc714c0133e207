// Package postgrestest is PostgreSQL servers to test the catalog against: real
// ones, in throw-away directories, from the binaries of Debian's package.
//
//	s := postgrestest.Start(t)       // a server of the test's own
//	s.Stop(true)                     // as a power cut: pg_ctl stop -m immediate
//	s.Restart()
//	standby := s.Replica(t)          // streaming, asynchronous
//	standby.Promote()
//	url := postgrestest.URL("postgres", s, standby)
//	proxy := s.Proxy(t)              // on the way to it, and able to cut it
//
//	url, name, s := postgrestest.Database(t) // a new database on a server all tests share
//
// The TestMain of a package that uses it calls Stop at the end.
//
// Servers listen on a Unix socket and on a port of the loopback interface, trust
// whoever comes, except the role "secret", whose password is "open sesame", and
// sync what they write. They run as an unprivileged user where the test is root,
// and end with the process of the test, however that ends.
//
// Without the binaries a test that needs them is skipped; with
// CHANCERY_TEST_POSTGRES=required in the environment it fails.
package postgrestest
