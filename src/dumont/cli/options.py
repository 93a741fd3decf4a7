"""Options and arguments that several commands share."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once; the work goes on.")]
Name = Annotated[str, typer.Argument(metavar="ID", help="Id, a unique beginning or end of it, or the label.")]
Gpu = Annotated[str | None, typer.Option("--gpu", help="Card, such as A100 or 'RTX 4090'; several with commas.")]
NumGpus = Annotated[int | None, typer.Option("--num-gpus", min=0, max=16, help="How many cards; 0 means none.")]
MinGpuRam = Annotated[float | None, typer.Option("--min-gpu-ram", min=0, help="GB per card, at least.")]
MaxPrice = Annotated[float | None, typer.Option("--max-price", min=0, help="USD per hour, at most.")]
Region = Annotated[str | None, typer.Option("--region", help="Continent, ISO country or region; several with commas.")]
MinReliability = Annotated[float | None, typer.Option("--min-reliability", min=0, max=1, help="0 to 1.")]
Verified = Annotated[bool, typer.Option("--verified", help="Only hosts that the marketplace has verified.")]
MinDisk = Annotated[float | None, typer.Option("--min-disk", min=0, help="GB of disk, at least.")]
