package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Program is one that does what its first argument, a command, says. Besides its own commands it
// has version and help.
type Program struct {
	Name     string
	About    string // one sentence
	Commands []Command
	// Parts are modules whose versions it tells beside its own, by their paths, with names for
	// them.
	Parts map[string]string
}

// Command is one word of the command line.
type Command struct {
	Name string
	// Usage is what follows the program's name, About what the command does, in a few words.
	Usage, About string
	// Details follow the usage line in the command's own help.
	Details string
	// Run returns the exit code. Asked for -h it says the command's help.
	Run func(*Call) int
}

// Call is a command that was asked for, with its arguments.
type Call struct {
	*World
	Args    []string
	program *Program
	command Command
}

// Run does what the arguments say, and returns the exit code.
func (p *Program) Run(w *World, args []string) int {
	if len(args) == 0 {
		p.overview(w.Stderr)
		return Usage
	}
	name := args[0]
	switch name {
	case "-h", "-help", "--help":
		p.overview(w.Stdout)
		return OK
	case "-version", "--version":
		name, args = "version", args[:1]
	}
	return p.call(w, name, args[1:])
}

func (p *Program) call(w *World, name string, args []string) int {
	all := p.commands()
	i := slices.IndexFunc(all, func(c Command) bool { return c.Name == name })
	if i < 0 {
		fmt.Fprintf(w.Stderr, "%s: unknown command %q; see %[1]s help\n", p.Name, name)
		return Usage
	}
	return all[i].Run(&Call{w, args, p, all[i]})
}

// commands returns the commands in the order of the help.
func (p *Program) commands() []Command {
	return append(slices.Clip(p.Commands),
		Command{"version", "version", "say which build this is", versionDetails, version},
		Command{"help", "help [COMMAND]", "explain a command", "", help})
}

func (p *Program) overview(out io.Writer) {
	fmt.Fprintf(out, "%s %s\n\nusage: %[1]s COMMAND\n\n", p.Name, p.About)
	width := 0
	for _, c := range p.commands() {
		width = max(width, len(c.Name)+2)
	}
	for _, c := range p.commands() {
		fmt.Fprintf(out, "  %-*s %s\n", width, c.Name, c.About)
	}
	fmt.Fprintf(out, "\n%s help COMMAND explains one.\n\n"+
		"exit codes: 0 done, 1 failed, 2 wrong usage or job file, 129, 130 and 143 ended by SIGHUP, SIGINT and SIGTERM\n", p.Name)
}

func help(c *Call) int {
	switch {
	case len(c.Args) == 0:
		c.program.overview(c.Stdout)
		return OK
	case c.Args[0] == "help" || strings.HasPrefix(c.Args[0], "-"):
		c.help()
		return OK
	}
	return c.program.call(c.World, c.Args[0], []string{"-h"})
}

func (c *Call) help() {
	fmt.Fprintf(c.Stdout, "usage: %s %s\n\n%s", c.program.Name, c.command.Usage, c.command.Details)
}

// Flags makes the flag set of a command.
func (c *Call) Flags() *flag.FlagSet { return Flags(c.command.Name) }

// Flags makes a flag set that says nothing by itself.
func Flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// FlagError is what a flag set says of wrong flags, which have two hyphens here.
func FlagError(err error) error { return errors.New(strings.ReplaceAll(err.Error(), " -", " --")) }

// Parse reads flags, which may stand before, between and behind the arguments, and returns the
// arguments: want of them. If ok is false the command ends with code: help was asked for, or
// something is wrong and has been said.
func (c *Call) Parse(fs *flag.FlagSet, want int, what string) (rest []string, code int, ok bool) {
	args := c.Args
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			c.help()
			return nil, OK, false
		}
		if err != nil {
			return nil, c.Misused("%v", FlagError(err)), false
		}
		if fs.NArg() == 0 {
			break
		}
		// A "--" ends the flags; what follows are arguments, whatever they look like.
		if n := len(args) - fs.NArg(); n > 0 && args[n-1] == "--" {
			rest = append(rest, fs.Args()...)
			break
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
	if len(rest) != want {
		return nil, c.Misused("want %s, got %d argument(s)", what, len(rest)), false
	}
	return rest, OK, true
}

// Misused says what is wrong with the command line, and returns its exit code.
func (c *Call) Misused(format string, args ...any) int {
	fmt.Fprintf(c.Stderr, "%s %s: %s; see %[1]s help %[2]s\n", c.program.Name, c.command.Name, fmt.Sprintf(format, args...))
	return Usage
}

// Fails says why the command failed, and returns its exit code.
func (c *Call) Fails(format string, args ...any) int {
	fmt.Fprintf(c.Stderr, "%s %s: %s\n", c.program.Name, c.command.Name, fmt.Sprintf(format, args...))
	return Failed
}
