package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Program is a program whose first argument is the name of a command. Besides its own commands it
// has version and help.
type Program struct {
	Name     string
	About    string // one sentence
	Commands []Command
	// Parts are the modules whose versions the command version prints too. The keys are their
	// paths, and the values are names for them.
	Parts map[string]string
}

// Command is one word of the command line.
type Command struct {
	Name string
	// Usage is the text after the program's name. About says in a few words what the command
	// does.
	Usage, About string
	// Details follow the usage line in the command's own help.
	Details string
	// Run returns the exit code. With the argument -h it prints the command's help.
	Run func(*Call) int
}

// Call is one call of a command, with its arguments.
type Call struct {
	*World
	Args    []string
	program *Program
	command Command
}

// Run calls the command that the arguments name, and returns the exit code.
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
		Command{"version", "version", "print the version of this build", versionDetails, version},
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
	fmt.Fprintf(out, "\n\"%s help COMMAND\" explains a command.\n\n"+
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

// Flags makes a flag set that prints nothing by itself.
func Flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// FlagError returns the error of a flag set with two hyphens before flags, as the help has them.
func FlagError(err error) error { return errors.New(strings.ReplaceAll(err.Error(), " -", " --")) }

// Parse reads flags, which may stand before, between and after the arguments, and returns the
// arguments. There must be want of them. If ok is false, the help or an error was printed, and the
// command ends with code.
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
		// A "--" ends the flags. All that follows is arguments, even if it looks like
		// flags.
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

// Misused prints what is wrong with the command line, and returns its exit code.
func (c *Call) Misused(format string, args ...any) int {
	fmt.Fprintf(c.Stderr, "%s %s: %s; see %[1]s help %[2]s\n", c.program.Name, c.command.Name, fmt.Sprintf(format, args...))
	return Usage
}

// Fails prints why the command failed, and returns its exit code.
func (c *Call) Fails(format string, args ...any) int {
	fmt.Fprintf(c.Stderr, "%s %s: %s\n", c.program.Name, c.command.Name, fmt.Sprintf(format, args...))
	return Failed
}
