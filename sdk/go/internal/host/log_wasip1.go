package host

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"
)

// The levels of the contract, in its order.
const (
	levelTrace = iota
	levelDebug
	levelInfo
	levelWarn
	levelError
)

func init() { slog.SetDefault(slog.New(newLogHandler())) }

// logHandler sends the records of log/slog, and so the lines of log, to the application's log:
// the message, then the attributes as key=value.
type logHandler struct {
	attributes slog.Handler
	line       *bytes.Buffer
	lock       *sync.Mutex
}

func newLogHandler() *logHandler {
	line := new(bytes.Buffer)
	options := &slog.HandlerOptions{
		Level: slog.Level(-1 << 10),
		ReplaceAttr: func(groups []string, attribute slog.Attr) slog.Attr {
			// The node's log has columns for both.
			if len(groups) == 0 && (attribute.Key == slog.LevelKey || attribute.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return attribute
		},
	}
	return &logHandler{slog.NewTextHandler(line, options), line, new(sync.Mutex)}
}

func (h *logHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *logHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	return &logHandler{h.attributes.WithAttrs(attributes), h.line, h.lock}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.attributes.WithGroup(name), h.line, h.lock}
}

func (h *logHandler) Handle(ctx context.Context, record slog.Record) error {
	h.lock.Lock()
	defer h.lock.Unlock()
	record.Time = time.Time{}
	h.line.Reset()
	err := h.attributes.Handle(ctx, record)
	line := record.Message
	if attributes := bytes.TrimSpace(h.line.Bytes()); len(attributes) > 0 {
		line += " " + string(attributes)
	}
	at, size := text(line)
	loggingLog(contractLevel(record.Level), at, size)
	return err
}

func contractLevel(level slog.Level) uint32 {
	switch {
	case level >= slog.LevelError:
		return levelError
	case level >= slog.LevelWarn:
		return levelWarn
	case level >= slog.LevelInfo:
		return levelInfo
	case level >= slog.LevelDebug:
		return levelDebug
	default:
		return levelTrace
	}
}
