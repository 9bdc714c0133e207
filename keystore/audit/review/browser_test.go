package review

import (
	"bytes"
	"context"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"chancery/keystore"
)

// TestThePageInABrowser: a real one draws the page by its own style, which the
// page's policy has to allow, and prints it.
func TestThePageInABrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("there is no chromium (Debian: apt-get install chromium)")
	}
	dir := t.TempDir()
	page := filepath.Join(dir, "page.html")
	r := report(t, Options{}, sound().signed(50, 1, 10).told(60, keystore.Record{Principal: hostile, Action: keystore.ActClockConfirm, Reason: hostile}))
	if err := os.WriteFile(page, pageOf(t, r), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	run := func(args ...string) {
		args = append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb", "--user-data-dir=" + dir}, args...)
		cmd := exec.CommandContext(ctx, browser, append(args, "file://"+page)...)
		cmd.WaitDelay = 5 * time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}

	shot := filepath.Join(dir, "page.png")
	run("--screenshot="+shot, "--window-size=1200,1600")
	drawn := coloursOf(t, shot)
	for what, c := range map[string]color.RGBA{"the bar of an active version": {0x1f, 0x5f, 0xae, 255}, "the ground of a bad verdict": {0xfd, 0xf1, 0xf0, 255}} {
		if drawn[c] < 1000 {
			t.Errorf("%s is not on the screen: %d points", what, drawn[c])
		}
	}

	printed := filepath.Join(dir, "page.pdf")
	run("--no-pdf-header-footer", "--print-to-pdf="+printed)
	pdf, err := os.ReadFile(printed)
	if err != nil {
		t.Fatal(err)
	}
	count := regexp.MustCompile(`/Count (\d+)`).FindSubmatch(pdf)
	if !bytes.HasPrefix(pdf, []byte("%PDF-")) || count == nil {
		t.Fatalf("what was printed is no PDF with pages: %d bytes", len(pdf))
	}
	if n, _ := strconv.Atoi(string(count[1])); n < 2 || n > 10 {
		t.Errorf("%d pages", n)
	}
}

// coloursOf counts the points of an image by their colour.
func coloursOf(t *testing.T, path string) map[color.RGBA]int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[color.RGBA]int)
	b := img.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, bl, a := img.At(x, y).RGBA()
			counts[color.RGBA{uint8(r >> 8), uint8(g >> 8), uint8(bl >> 8), uint8(a >> 8)}]++
		}
	}
	return counts
}
