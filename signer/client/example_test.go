package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"

	"chancery/signer/api"
	"chancery/signer/client"
)

// An issuer that has thousands of tokens signed a second: many goroutines, one Stream.
func ExampleRPC_Stream() {
	cfg, err := client.LoadConfig("unix:/run/chancery/sign/sign.sock", "issuer.crt", "issuer.key", "ca.crt")
	if err != nil {
		log.Fatal(err)
	}
	rpc, err := client.NewRPC(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer rpc.Close()
	stream := rpc.Stream()
	defer stream.Close()

	var wg sync.WaitGroup
	for _, name := range []string{"alice", "bob"} {
		wg.Go(func() {
			reply, err := stream.Sign(context.Background(), api.SignJWTRequest{
				KeySet: "web", Claims: fmt.Appendf(nil, `{"sub":%q}`, name),
			})
			if p, ok := errors.AsType[*api.Problem](err); ok {
				log.Printf("%s: refused: %s", name, p.Code) // p.RetryAfter: when to ask again
				return
			}
			if err != nil {
				log.Print(err) // whether it was signed is not known
				return
			}
			fmt.Println(reply.Token)
		})
	}
	wg.Wait()
}
