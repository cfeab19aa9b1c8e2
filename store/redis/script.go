package redis

import (
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"strings"

	"github.com/redis/rueidis"
)

//go:embed record.lua
var recordLua string

var (
	//go:embed create.lua
	createLua string
	//go:embed delete.lua
	deleteLua string
	//go:embed end.lua
	endLua string
	//go:embed enter.lua
	enterLua string
	//go:embed known.lua
	knownLua string
	//go:embed load.lua
	loadLua string
	//go:embed sweep.lua
	sweepLua string
	//go:embed touch.lua
	touchLua string
	//go:embed update.lua
	updateLua string
)

var (
	createScript = newScript(recordLua, createLua)
	deleteScript = newScript(recordLua, deleteLua)
	endScript    = newScript(recordLua, endLua)
	enterScript  = newScript(recordLua, enterLua)
	loadScript   = newReader(loadLua)
	sweepScript  = newScript(recordLua, sweepLua)
	touchScript  = newScript(recordLua, touchLua)
	updateScript = newScript(knownLua, recordLua, updateLua)
)

// A script runs on one key. It is sent by its hash; a server that does not know it,
// since it was restarted or its scripts were flushed, is sent the text.
//
// [rueidis.Lua] does the same, but neither in a pipeline without asking all nodes
// first nor on a connection of its own.
type script struct {
	text, sha string
	reads     bool // and no more
}

func newScript(parts ...string) *script {
	text := strings.Join(parts, "")
	sum := sha1.Sum([]byte(text)) // how the servers name scripts; nothing secret
	return &script{text: text, sha: hex.EncodeToString(sum[:])}
}

func newReader(text string) *script {
	sc := newScript(text)
	sc.reads = true
	return sc
}

// byHash is the command that runs the script on a server that knows it.
func (sc *script) byHash(b rueidis.Builder, key string, args []string) rueidis.Completed {
	return sc.sent(b.Evalsha().Sha1(sc.sha).Numkeys(1).Key(key).Arg(args...).Build())
}

// byText is the command that runs the script on any server.
func (sc *script) byText(b rueidis.Builder, key string, args []string) rueidis.Completed {
	return sc.sent(b.Eval().Script(sc.text).Numkeys(1).Key(key).Arg(args...).Build())
}

// sent says whether the client may send cmd again by itself: a change whose answer
// was lost may have been made.
func (sc *script) sent(cmd rueidis.Completed) rueidis.Completed {
	if sc.reads {
		return cmd.ToRetryable()
	}
	return cmd
}
