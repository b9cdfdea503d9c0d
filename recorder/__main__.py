from recorder.commands.cli import main

raise SystemExit(main())
