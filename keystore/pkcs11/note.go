package pkcs11

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/miekg/pkcs11"

	"chancery/keystore"
)

// noteApplication is the CKA_APPLICATION of every note, by which they are found.
const noteApplication = "chancery"

// mostNotes is how many notes a worker reads: one for each node that shares the
// token, and what interrupted writes have left.
const mostNotes = 1000

var _ keystore.Noter = (*Provider)(nil)

// WriteNote implements keystore.Noter. A note is a data object (CKO_DATA) on the
// token that only a user who has logged in can see. The clerk writes it, so that
// never two processes of this provider make objects at once.
func (p *Provider) WriteNote(ctx context.Context, name string, text []byte) error {
	if err := checkNote(name, text); err != nil {
		return err
	}
	body, err := json.Marshal(keystore.Note{Name: name, Text: text})
	if err != nil {
		return err
	}
	p.noted.Store(true)
	err = p.errand(ctx, false, func(g *generation, at *place) error {
		_, err := g.ask(ctx, at, verbWriteNote, p.cfg.Deadlines.Find, body)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the note %q: %w", name, err)
	}
	return nil
}

func checkNote(name string, text []byte) error {
	for _, c := range []byte(name) {
		if c < ' ' || c > '~' {
			return fmt.Errorf("a note cannot be named %q", name)
		}
	}
	if name == "" || len(name) > keystore.MaxNoteName || len(text) > keystore.MaxNote {
		return fmt.Errorf("a note of %d bytes under a name of %d is too long, or has no name", len(text), len(name))
	}
	return nil
}

// ReadNotes implements keystore.Noter. Some modules show a process the notes that
// were there when it logged in: where this provider has written any, a process
// reads them that sees the token afresh.
func (p *Provider) ReadNotes(ctx context.Context) (notes []keystore.Note, err error) {
	read := func(g *generation, at *place) error {
		body, err := g.ask(ctx, at, verbReadNotes, p.cfg.Deadlines.List)
		if err != nil {
			return err
		}
		notes = nil
		return unmarshalAnswer(body, &notes)
	}
	if p.noted.Load() {
		err = p.errand(ctx, true, read)
	} else {
		err = p.deskOf(ctx, read)
	}
	if err != nil {
		return nil, fmt.Errorf("reading notes: %w", err)
	}
	return notes, nil
}

// deskOf has a worker that serves do f beside its signatures.
func (p *Provider) deskOf(ctx context.Context, f func(*generation, *place) error) error {
	return repeat(ctx, 2, func(bool) error {
		g, err := p.anyWorker(ctx)
		if err != nil {
			return err
		}
		at, err := g.desk.enter(ctx)
		if err != nil {
			return err
		}
		defer at.leave()
		return f(g, at)
	})
}

// writeNote makes the note anew and then removes what was there under its name, so
// that one that is cut short never leaves none.
func (m *module) writeNote(n keystore.Note) error {
	if err := checkNote(n.Name, n.Text); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnsupported, err)
	}
	old, err := m.objects(noteTemplate(n.Name)...)
	if err != nil {
		return err
	}
	template := append(noteTemplate(n.Name),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE, n.Text))
	if _, err := m.ctx.CreateObject(m.desk, template); err != nil {
		if refusedTemplate(err) {
			return fmt.Errorf("%w: C_CreateObject of a note: %w", keystore.ErrUnsupported, err)
		}
		return fmt.Errorf("C_CreateObject of a note: %w", err)
	}
	for _, object := range old {
		if err := m.ctx.DestroyObject(m.desk, object); err != nil {
			return fmt.Errorf("C_DestroyObject of an old note: %w", err)
		}
	}
	return nil
}

// noteTemplate is what the notes of a name have in common; empty: all notes.
func noteTemplate(name string) []*pkcs11.Attribute {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, noteApplication),
	}
	if name != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, name))
	}
	return template
}

func (m *module) readNotes() ([]keystore.Note, error) {
	objects, err := m.objects(noteTemplate("")...)
	if err != nil {
		return nil, err
	}
	if len(objects) > mostNotes {
		return nil, fmt.Errorf("%w: the token has %d notes", keystore.ErrUnsupported, len(objects))
	}
	notes := make([]keystore.Note, 0, len(objects))
	for _, object := range objects {
		attributes, err := m.ctx.GetAttributeValue(m.desk, object, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, nil), // which no key has: whoever watches the calls sees what is read
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil), pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil),
		})
		if vanished(err) {
			continue // it was replaced meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("C_GetAttributeValue of a note: %w", err)
		}
		n := keystore.Note{Name: string(attributes[1].Value), Text: attributes[2].Value}
		if checkNote(n.Name, n.Text) == nil {
			notes = append(notes, n) // others are none that Chancery wrote
		}
	}
	return notes, nil
}

// vanished reports whether err is that an object is not there any more.
func vanished(err error) bool { return err != nil && cause(err) == pkcs11.CKR_OBJECT_HANDLE_INVALID }
